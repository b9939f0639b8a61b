//! The charts of a report as SVG, and how their figures are worded. Knows nothing of the page around them but
//! the names of its CSS classes: colours and the size of text are the style sheet's, which doubles the text
//! on a narrow screen.

use crate::result::{HEAT_ROWS_PER_DECADE, Second};
use hdrhistogram::Histogram;
use std::fmt::Write as _;

/// Steps of the heat map's colours.
pub(super) const SHADES: usize = 12;
/// Width of all charts, in their own units.
const WIDTH: f64 = 800.0;
/// Left of the plot: the longest label of a narrow screen.
const LEFT: f64 = 84.0;
/// Where the plot ends on the right.
const RIGHT: f64 = WIDTH - 18.0;
/// Where the plot begins.
const TOP: f64 = 14.0;
/// Below the plot: labels and the axis' name.
const FOOT: f64 = 50.0;
/// More seconds than this share columns.
const COLUMNS_MAX: usize = 300;
/// Points of a percentile curve.
const CURVE_POINTS: u32 = 240;
/// Nearer to the right edge than this a label is written to the left of its place.
const LABEL_GAP: f64 = 36.0;
/// Of a maximum's text.
const MARK_WIDTH: f64 = 108.0;

/// What a string takes.
const TAKES_ALL: &str = "a string takes all that is written";

/// A place on an axis that is told.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Tick {
    /// Where, in the axis' unit.
    pub(super) at: f64,
    /// What is written there.
    pub(super) label: String,
}

/// From values to places, linear or logarithmic.
#[derive(Clone, Copy, Debug)]
struct Scale {
    values: (f64, f64),
    places: (f64, f64),
    logarithmic: bool,
}

impl Scale {
    fn linear(values: (f64, f64), places: (f64, f64)) -> Scale {
        Scale { values, places, logarithmic: false }
    }

    fn logarithmic(values: (f64, f64), places: (f64, f64)) -> Scale {
        Scale { values, places, logarithmic: true }
    }

    /// Values out of its range are put on its edge.
    fn place(&self, value: f64) -> f64 {
        let unit = |value: f64| if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let (from, to) = (unit(self.values.0), unit(self.values.1));
        let share = ((unit(value) - from) / (to - from)).clamp(0.0, 1.0);
        self.places.0 + share * (self.places.1 - self.places.0)
    }
}

/// Seconds of a run that are shown as one.
#[derive(Clone, Debug)]
struct Column {
    /// When it begins, seconds.
    from: f64,
    /// When it ends, seconds.
    to: f64,
    operations: u64,
    failed: u64,
    /// µs; None without requests. That of a single second is exact, that of several is read off `heat`, since
    /// percentiles cannot be merged.
    p50: Option<f64>,
    /// As above.
    p99: Option<f64>,
    /// µs.
    max: Option<f64>,
    /// Requests by latency.
    heat: Vec<u64>,
    /// CPU seconds.
    server_cpu: Option<f64>,
    /// CPU seconds.
    generator_cpu: f64,
}

impl Column {
    fn of(from: f64, to: f64, seconds: &[Second]) -> Column {
        let answered = seconds.iter().filter(|second| second.requests > 0);
        let sum = |of: fn(&Second) -> u64| seconds.iter().map(of).sum();
        let mut heat = Vec::new();
        for second in seconds {
            heat.resize(heat.len().max(second.heat.len()), 0);
            heat.iter_mut().zip(&second.heat).for_each(|(to, count)| *to += count);
        }
        let percentile = |quantile, of: fn(&Second) -> f64| match seconds {
            [second] => (second.requests > 0).then(|| of(second)),
            _ => quantile_of(&heat, quantile),
        };
        Column {
            from,
            to,
            operations: sum(|second| second.operations),
            failed: sum(|second| second.failed),
            p50: percentile(0.5, |second| second.latency_us.p50),
            p99: percentile(0.99, |second| second.latency_us.p99),
            max: answered.map(|second| second.latency_us.max).reduce(f64::max),
            heat,
            server_cpu: seconds.iter().map(|second| second.server_cpu).sum(),
            generator_cpu: seconds.iter().map(|second| second.generator_cpu).sum(),
        }
    }

    /// What is so much in all of it, per second.
    fn rate(&self, amount: f64) -> f64 {
        amount / (self.to - self.from)
    }

    /// What a pointer that rests on it is told.
    fn title(&self) -> String {
        let mut title = format!("{} s to {} s: ", round(self.from), round(self.to));
        let (rate, failed) = (count(self.rate(self.operations as f64)), self.failed);
        write!(title, "{rate} operations/s, {failed} failed").expect(TAKES_ALL);
        if let (Some(p50), Some(p99), Some(max)) = (self.p50, self.p99, self.max) {
            let (p50, p99, max) = (duration(p50), duration(p99), duration(max));
            write!(title, ", p50 {p50}, p99 {p99}, max {max}").expect(TAKES_ALL);
        }
        title
    }
}

/// A run along its time: at most [`COLUMNS_MAX`] columns.
#[derive(Debug)]
pub(super) struct Timeline {
    columns: Vec<Column>,
    /// Seconds of a column.
    pub(super) width: usize,
    /// Seconds of all.
    end: f64,
}

impl Timeline {
    /// None if there is no second. The last second may be a part of one.
    pub(super) fn of(seconds: &[Second], measured: f64) -> Option<Timeline> {
        let width = seconds.len().div_ceil(COLUMNS_MAX).max(1);
        let last = measured - (seconds.len() as f64 - 1.0);
        // A sliver would make rates of a few late answers look like a burst.
        let end = seconds.len() as f64 - if (0.05..1.0).contains(&last) { 1.0 - last } else { 0.0 };
        let columns = seconds.chunks(width).enumerate().map(|(index, chunk)| {
            let from = (index * width) as f64;
            Column::of(from, (from + chunk.len() as f64).min(end), chunk)
        });
        (!seconds.is_empty()).then(|| Timeline { columns: columns.collect(), width, end })
    }

    /// The most requests in one cell of the heat map.
    pub(super) fn hottest(&self) -> u64 {
        self.columns.iter().flat_map(|column| column.heat.iter().copied()).max().unwrap_or(0)
    }

    /// Was anything refused or lost?
    pub(super) fn failed(&self) -> bool {
        self.columns.iter().any(|column| column.failed > 0)
    }

    /// Is the server's CPU time known?
    pub(super) fn server_is_known(&self) -> bool {
        self.columns.iter().any(|column| column.server_cpu.is_some())
    }

    /// The most cores that either side used.
    pub(super) fn cores_max(&self) -> f64 {
        let used = |column: &Column| column.rate(column.generator_cpu.max(column.server_cpu.unwrap_or(0.0)));
        self.columns.iter().map(used).fold(0.0, f64::max)
    }

    fn scale(&self) -> Scale {
        Scale::linear((0.0, self.end), (LEFT, RIGHT))
    }

    /// A line of steps; where there is no value there is a gap.
    fn steps(&self, y: &Scale, of: impl Fn(&Column) -> Option<f64>) -> String {
        let (mut path, mut pen_down, x) = (String::new(), false, self.scale());
        for column in &self.columns {
            let Some(value) = of(column) else {
                pen_down = false;
                continue;
            };
            let (from, to, y) = (x.place(column.from), x.place(column.to), y.place(value));
            if pen_down {
                write!(path, "V{y:.1}H{to:.1}").expect(TAKES_ALL);
            } else {
                write!(path, "M{from:.1} {y:.1}H{to:.1}").expect(TAKES_ALL);
            }
            pen_down = true;
        }
        path
    }

    fn has_edges(&self, chart: &mut Chart) {
        let x = self.scale();
        for (index, tick) in time_ticks(self.end).iter().enumerate() {
            chart.tick_below(index, x.place(tick.at), &tick.label);
        }
        chart.name_below("time since the start");
    }

    fn hints(&self, chart: &mut Chart) {
        let x = self.scale();
        for column in &self.columns {
            let (from, to) = (x.place(column.from), x.place(column.to));
            let title = format!("<title>{}</title>", column.title());
            chart.add(&format!(
                r#"<rect class="hit" x="{from:.1}" y="{TOP}" width="{:.1}" height="{:.1}">{title}</rect>"#,
                to - from,
                chart.bottom - TOP,
            ));
        }
    }
}

/// One chart while it is drawn.
struct Chart {
    body: String,
    bottom: f64,
}

impl Chart {
    fn new(plot_height: f64) -> Chart {
        Chart { body: String::new(), bottom: TOP + plot_height }
    }

    fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    fn path(&mut self, class: &str, data: &str) {
        if !data.is_empty() {
            self.add(&format!(r#"<path class="{class}" d="{data}"/>"#));
        }
    }

    /// Over what has colours of its own, a line needs an edge.
    fn path_with_edge(&mut self, class: &str, data: &str) {
        self.path("line halo", data);
        self.path(class, data);
    }

    fn tick_left(&mut self, y: f64, label: &str) {
        self.add(&format!(r#"<path class="grid" d="M{LEFT} {y:.1}H{RIGHT}"/>"#));
        // In the corner it must not touch the label below.
        let (x, shift) = (LEFT - 8.0, if y < self.bottom { ".35em" } else { ".1em" });
        self.add(&format!(r#"<text class="end" x="{x}" y="{y:.1}" dy="{shift}">{label}</text>"#));
    }

    fn tick_below(&mut self, index: usize, x: f64, label: &str) {
        let y = self.bottom;
        // Every second label has no place on a narrow screen.
        let other = if index % 2 == 1 { " other" } else { "" };
        // Long labels in the corners must neither leave the chart nor touch their neighbours.
        let (anchor, x_text) = match x {
            x if x > RIGHT - LABEL_GAP => ("end", x + 14.0),
            x if x == LEFT => ("end", x + 9.0),
            x => ("middle", x),
        };
        self.add(&format!(r#"<path class="axis" d="M{x:.1} {y}v5"/>"#));
        self.add(&format!(
            r#"<text class="{anchor}{other}" x="{x_text:.1}" y="{:.1}" dy=".95em">{label}</text>"#,
            y + 10.0
        ));
    }

    fn name_below(&mut self, name: &str) {
        let (x, y) = ((LEFT + RIGHT) / 2.0, self.bottom + 44.0);
        self.add(&format!(r#"<text class="middle name" x="{x}" y="{y}">{name}</text>"#));
    }

    fn name_left(&mut self, name: &str, top: f64, bottom: f64) {
        let y = (top + bottom) / 2.0;
        self.add(&format!(
            r#"<text class="middle name" transform="translate(16 {y}) rotate(-90)">{name}</text>"#
        ));
    }

    fn finish(mut self, what: &str) -> String {
        let (bottom, height) = (self.bottom, self.bottom + FOOT);
        self.add(&format!(r#"<path class="axis" d="M{LEFT} {bottom}H{RIGHT}"/>"#));
        let body = self.body;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" role=\"img\" aria-label=\"{what}\">\n\
             {body}</svg>\n"
        )
    }
}

/// One line of the percentile chart.
pub(super) struct Curve<'a> {
    /// Its colour's CSS class.
    pub(super) class: &'a str,
    /// Nanoseconds.
    pub(super) latencies: &'a Histogram<u64>,
}

/// Latency by percentile. The figures of the first curve, which is everything together, are written beside
/// it. None if there is no request.
pub(super) fn percentiles(curves: &[Curve<'_>]) -> Option<String> {
    let points: Vec<_> = curves.iter().map(|curve| curve_points(curve.latencies)).collect();
    let ends = || points.iter().filter_map(|points| Some((points.first()?, points.last()?)));
    let fastest = ends().map(|(first, _)| first.1).reduce(f64::min)?;
    let slowest = ends().map(|(_, last)| last.1).reduce(f64::max)?;
    let nines = ends().map(|(_, last)| last.0).fold(1.0, f64::max);
    let mut chart = Chart::new(300.0);
    let range = log_range(fastest, slowest);
    let x = Scale::linear((0.0, nines), (LEFT, RIGHT - 6.0));
    let y = Scale::logarithmic(range, (chart.bottom, TOP));
    for tick in latency_ticks(range) {
        chart.tick_left(y.place(tick.at), &tick.label);
    }
    for (index, tick) in percentile_ticks(nines).iter().enumerate() {
        let place = x.place(tick.at);
        if index > 0 {
            chart.path("grid", &format!("M{place:.1} {TOP}V{:.1}", chart.bottom));
        }
        chart.tick_below(index, place, &tick.label);
    }
    chart.name_left("latency", TOP, chart.bottom);
    chart.name_below("percentile of requests, towards the slowest");
    for (curve, points) in curves.iter().zip(&points).rev() {
        let Some(&(end, max)) = points.last() else { continue };
        let mut path = String::new();
        for (index, (at, us)) in points.iter().enumerate() {
            let pen = if index == 0 { 'M' } else { 'L' };
            write!(path, "{pen}{:.1} {:.1}", x.place(*at), y.place(*us)).expect(TAKES_ALL);
        }
        chart.path(&format!("line {}", curve.class), &path);
        let (end, max) = (x.place(end), y.place(max));
        chart.add(&format!(r#"<circle class="dot {}" cx="{end:.1}" cy="{max:.1}" r="4"/>"#, curve.class));
    }
    mark_percentiles(&mut chart, curves, &x, &y);
    Some(chart.finish("Latency by percentile, both axes logarithmic"))
}

/// Writes the well-known percentiles and the maximum beside the first curve.
fn mark_percentiles(chart: &mut Chart, curves: &[Curve<'_>], x: &Scale, y: &Scale) {
    let Some(curve) = curves.first().filter(|curve| !curve.latencies.is_empty()) else { return };
    let end = (curve.latencies.len() as f64).log10();
    let at = |quantile| curve.latencies.value_at_quantile(quantile) as f64 / 1e3;
    let told = [(0.5, 2.0_f64), (0.99, 100.0), (0.999, 1e3), (0.9999, 1e4), (0.99999, 1e5)];
    // Near its end the curve's maximum has the room.
    for (quantile, rarity) in
        told.into_iter().filter(|(_, rarity)| x.place(rarity.log10()) < x.place(end) - MARK_WIDTH)
    {
        let (x, y, us) = (x.place(rarity.log10()), y.place(at(quantile)), at(quantile));
        chart.add(&format!(r#"<circle class="dot {}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#, curve.class));
        // Beside a rising curve; at its left end only the other side has room.
        let (anchor, x, y) =
            if x < LEFT + 60.0 { ("start", x + 6.0, y + 16.0) } else { ("end", x - 5.0, y - 8.0) };
        let us = duration(us);
        chart.add(&format!(r#"<text class="{anchor} mark wide" x="{x:.1}" y="{y:.1}">{us}</text>"#));
    }
    let max = curve.latencies.max() as f64 / 1e3;
    let (x, y) = (x.place(end), y.place(max));
    // A curve of few requests ends far left.
    let (anchor, x) = if x < LEFT + 200.0 { ("start", x + 8.0) } else { ("end", x - 6.0) };
    let (y, max) = ((y - 8.0).max(TOP + 4.0), duration(max));
    chart.add(&format!(r#"<text class="{anchor} mark" x="{x:.1}" y="{y:.1}">max {max}</text>"#));
}

/// Requests by time and latency, with the columns' p50 and p99. None if there is no request.
pub(super) fn heat_map(timeline: &Timeline) -> Option<String> {
    let hottest = timeline.hottest();
    let used =
        |row: &usize| timeline.columns.iter().any(|column| column.heat.get(*row).is_some_and(|n| *n > 0));
    let rows = timeline.columns.iter().map(|column| column.heat.len()).max()?;
    let (first, last) = ((0..rows).find(used)?, (0..rows).rfind(used)?);
    let decade = HEAT_ROWS_PER_DECADE as usize;
    // An axis of less than a decade has too few round values.
    let missing = decade.saturating_sub(last + 1 - first);
    let first = first.saturating_sub(missing / 2);
    let last = last.max(first + decade - 1);
    let us = |row: usize| 10_f64.powf(row as f64 / f64::from(HEAT_ROWS_PER_DECADE));
    let mut chart = Chart::new(330.0);
    let range = (us(first), us(last + 1));
    let y = Scale::logarithmic(range, (chart.bottom, TOP));
    for tick in latency_ticks(range) {
        chart.tick_left(y.place(tick.at), &tick.label);
    }
    let (across, down) = ((RIGHT - LEFT) / timeline.end, (chart.bottom - TOP) / (last + 1 - first) as f64);
    chart.add(&format!(
        r#"<g class="cells" transform="translate({LEFT} {TOP}) scale({across:.5} {down:.5})">"#
    ));
    for (shade, path) in cell_paths(timeline, first, last, hottest).iter().enumerate() {
        chart.path(&format!("h{shade}"), path);
    }
    chart.add("</g>");
    chart.path_with_edge("line p99", &timeline.steps(&y, |column| column.p99));
    chart.path_with_edge("line p50", &timeline.steps(&y, |column| column.p50));
    timeline.has_edges(&mut chart);
    timeline.hints(&mut chart);
    chart.name_left("latency", TOP, chart.bottom);
    Some(chart.finish("Requests by time and latency"))
}

/// The cells of each shade in units of seconds and rows; neighbours of a row and a shade are one rectangle.
fn cell_paths(timeline: &Timeline, first: usize, last: usize, hottest: u64) -> Vec<String> {
    let mut paths = vec![String::new(); SHADES];
    for row in first..=last {
        let shade = |column: &Column| shade(column.heat.get(row).copied().unwrap_or(0), hottest);
        for run in timeline.columns.chunk_by(|one, next| shade(one) == shade(next)) {
            let (Some(from), Some(to), Some(shade)) = (run.first(), run.last(), shade(&run[0])) else {
                continue;
            };
            let (x, y, width) = (round(from.from), last - row, round(to.to - from.from));
            write!(paths[shade], "M{x} {y}h{width}v1h-{width}z").expect(TAKES_ALL);
        }
    }
    paths
}

/// A percentile of requests by latency, µs: within a row they are taken as spread evenly over its logarithm.
fn quantile_of(heat: &[u64], quantile: f64) -> Option<f64> {
    let mut left = heat.iter().sum::<u64>() as f64 * quantile;
    for (row, count) in heat.iter().enumerate().filter(|(_, count)| **count > 0) {
        let share = left / *count as f64;
        if share <= 1.0 {
            return Some(10_f64.powf((row as f64 + share) / f64::from(HEAT_ROWS_PER_DECADE)));
        }
        left -= *count as f64;
    }
    None
}

/// The colour of so many requests, on a logarithmic scale; None of none.
fn shade(requests: u64, hottest: u64) -> Option<usize> {
    let share = (requests as f64).ln_1p() / (hottest.max(1) as f64).ln_1p();
    (requests > 0).then(|| ((share * SHADES as f64) as usize).min(SHADES - 1))
}

/// Operations a second, below them failures if there are any; `offered` is a line to hold them against.
pub(super) fn throughput(timeline: &Timeline, offered: Option<f64>) -> String {
    let strip = if timeline.failed() { 100.0 } else { 0.0 };
    let mut chart = Chart::new(220.0 + strip);
    let bottom = chart.bottom - strip;
    let rate = |column: &Column| column.rate(column.operations as f64);
    let max = timeline.columns.iter().map(rate).fold(offered.unwrap_or(0.0), f64::max);
    let ticks = linear_ticks(max, 5);
    let y = Scale::linear((0.0, top(&ticks)), (bottom, TOP));
    ticks.iter().for_each(|tick| chart.tick_left(y.place(tick.at), &tick.label));
    let steps = timeline.steps(&y, |column| Some(rate(column)));
    chart.path("area", &format!("{steps}V{bottom}H{LEFT}z"));
    if let Some(offered) = offered {
        chart.path("line offered", &format!("M{LEFT} {:.1}H{RIGHT}", y.place(offered)));
    }
    chart.path("line throughput", &steps);
    chart.name_left("operations/s", TOP, bottom);
    if timeline.failed() {
        chart.path("axis", &format!("M{LEFT} {bottom}H{RIGHT}"));
        failures(&mut chart, timeline, bottom + 30.0);
    }
    timeline.has_edges(&mut chart);
    timeline.hints(&mut chart);
    chart.finish("Operations a second over time")
}

/// Failures a second as bars, with an axis of their own: a few of them must be seen beside many operations.
fn failures(chart: &mut Chart, timeline: &Timeline, top_edge: f64) {
    let (bottom, x) = (chart.bottom, timeline.scale());
    let rate = |column: &Column| column.rate(column.failed as f64);
    let ticks = linear_ticks(timeline.columns.iter().map(rate).fold(0.0, f64::max), 2);
    let y = Scale::linear((0.0, top(&ticks)), (bottom, top_edge));
    ticks.iter().for_each(|tick| chart.tick_left(y.place(tick.at), &tick.label));
    let mut bars = String::new();
    for column in timeline.columns.iter().filter(|column| column.failed > 0) {
        // Thinner than a pixel or so it would not be seen.
        let (from, to) = (x.place(column.from), x.place(column.to).max(x.place(column.from) + 1.5));
        let y = y.place(rate(column)).min(bottom - 1.5);
        write!(bars, "M{from:.1} {bottom}V{y:.1}H{to:.1}V{bottom}z").expect(TAKES_ALL);
    }
    chart.path("failures", &bars);
    chart.name_left("failed/s", top_edge, bottom);
}

/// Cores in use of the server, if they are known, and of the generator; `cpus` is a line to hold them
/// against.
pub(super) fn cpu(timeline: &Timeline, cpus: Option<usize>) -> String {
    let mut chart = Chart::new(200.0);
    let ticks = linear_ticks(timeline.cores_max().max(cpus.unwrap_or(0) as f64), 5);
    let y = Scale::linear((0.0, top(&ticks)), (chart.bottom, TOP));
    ticks.iter().for_each(|tick| chart.tick_left(y.place(tick.at), &tick.label));
    if let Some(cpus) = cpus {
        chart.path("line offered", &format!("M{LEFT} {:.1}H{RIGHT}", y.place(cpus as f64)));
    }
    let generator = timeline.steps(&y, |column| Some(column.rate(column.generator_cpu)));
    chart.path("line generator", &generator);
    let server = timeline.steps(&y, |column| Some(column.rate(column.server_cpu?)));
    chart.path("line server", &server);
    timeline.has_edges(&mut chart);
    timeline.hints(&mut chart);
    chart.name_left("cores in use", TOP, chart.bottom);
    chart.finish("CPU of server and generator over time")
}

/// Points of a percentile curve: nines (log10 of 1 / (1 - p)) and µs, from the fastest request to the
/// slowest.
fn curve_points(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    if latencies.is_empty() {
        return Vec::new();
    }
    let end = (latencies.len() as f64).log10();
    let mut points: Vec<(f64, f64)> = (0..CURVE_POINTS)
        .map(|index| {
            let nines = end * f64::from(index) / f64::from(CURVE_POINTS);
            // At 0 itself a histogram tells the lower edge of its first value, everywhere else the upper one.
            let quantile = (1.0 - 10_f64.powf(-nines)).max(f64::MIN_POSITIVE);
            (nines, latencies.value_at_quantile(quantile) as f64 / 1e3)
        })
        .collect();
    points.push((end, latencies.max() as f64 / 1e3));
    // What lies on a level line between its ends is not needed.
    let mut kept: Vec<(f64, f64)> = Vec::with_capacity(points.len());
    for point in points {
        match kept.as_mut_slice() {
            [.., one, two] if one.1 == two.1 && two.1 == point.1 => *two = point,
            _ => kept.push(point),
        }
    }
    kept
}

/// Percentiles that so many nines can tell, by their nines.
fn percentile_ticks(nines: f64) -> Vec<Tick> {
    let mut ticks = vec![
        Tick { at: 0.0, label: "0 %".to_owned() },
        Tick { at: 2.0_f64.log10(), label: "50 %".to_owned() },
    ];
    let mut label = String::from("9");
    for index in 1..=(nines + 1e-9) as usize {
        let text = if index == 1 { "90 %".to_owned() } else { format!("{label} %") };
        ticks.push(Tick { at: index as f64, label: text });
        label.push_str(if index == 2 { ".9" } else { "9" });
    }
    ticks
}

/// What holds both values, on round edges (1, 2, 5), at least a decade.
fn log_range(from: f64, to: f64) -> (f64, f64) {
    let below = |value: f64| {
        let decade = 10_f64.powf(value.log10().floor());
        [5.0, 2.0, 1.0].into_iter().map(|digit| digit * decade).find(|edge| *edge <= value).unwrap_or(decade)
    };
    let above = |value: f64| {
        let decade = 10_f64.powf(value.log10().floor());
        let edges = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade);
        edges.clone().find(|edge| *edge >= value).unwrap_or(decade * 10.0)
    };
    let from = below(from.max(1e-3));
    // Some room for the last mark.
    (from, above(to * 1.5).max(from * 10.0))
}

/// Decades, or also 2 and 5 where there are few of them. µs.
fn latency_ticks((from, to): (f64, f64)) -> Vec<Tick> {
    let digits: &[f64] = if (to / from).log10() > 3.2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let values = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10_f64.powi(decade)));
    let within = values.filter(|value| *value >= from * 0.999 && *value <= to * 1.001);
    within.map(|at| Tick { at, label: trim(&duration(at)) }).collect()
}

/// From 0 to a round value that is not less than `max`, in at most `steps` round steps.
fn linear_ticks(max: f64, steps: u32) -> Vec<Tick> {
    let max = if max > 0.0 { max } else { 1.0 };
    let raw = max / f64::from(steps);
    let decade = 10_f64.powf(raw.log10().floor());
    let edges = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * decade);
    let step = edges.clone().find(|step| *step >= raw * 0.999_999).unwrap_or(decade * 10.0);
    let last = (max / step * 0.999_999).ceil() as u32;
    (0..=last).map(|index| step * f64::from(index)).map(|at| Tick { at, label: trim(&count(at)) }).collect()
}

fn top(ticks: &[Tick]) -> f64 {
    ticks.last().map_or(1.0, |tick| tick.at)
}

/// Round times from 0 on, at most nine of them.
fn time_ticks(end: f64) -> Vec<Tick> {
    const STEPS: [f64; 17] = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0,
        7_200.0,
    ];
    let days = || (end / 8.0 / 14_400.0).ceil() * 14_400.0;
    let step = STEPS.into_iter().find(|step| end / step <= 8.0).unwrap_or_else(days);
    let word = |at: f64| match step {
        step if step % 3_600.0 == 0.0 => format!("{} h", round(at / 3_600.0)),
        step if step % 60.0 == 0.0 => format!("{} min", round(at / 60.0)),
        _ => format!("{} s", round(at)),
    };
    let ticks = (0..=(end / step + 1e-9) as u32).map(|index| step * f64::from(index));
    ticks.map(|at| Tick { at, label: word(at) }).collect()
}

/// To two places, without zeros at the end.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Without zeros behind the point: for values that are round.
fn trim(text: &str) -> String {
    match text.split_once('\u{a0}') {
        Some((number, unit)) => format!("{}\u{a0}{unit}", trim(number)),
        None if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text.to_owned(),
    }
}

/// Three digits of a value and the unit in which it is 1 or more; units rise by thousands.
fn three_digits(value: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let (mut value, mut unit) = (value, 0);
    // 999.5 would be worded as 1000.
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / 1e3, unit + 1);
    }
    let number = match value {
        value if value == 0.0 || value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    if units[unit].is_empty() { number } else { format!("{number}\u{a0}{}", units[unit]) }
}

/// A time in µs, in words.
pub(super) fn duration(us: f64) -> String {
    if us > 0.0 && us < 0.9995 {
        return three_digits(us * 1e3, &["ns"]);
    }
    three_digits(us, &["µs", "ms", "s"])
}

/// An amount, in words.
pub(super) fn count(amount: f64) -> String {
    if amount.fract() == 0.0 && amount < 999.5 {
        return format!("{amount:.0}");
    }
    three_digits(amount, &["", "k", "M", "G"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::latencies;
    use crate::result::{Percentiles, heat};

    fn second(us: &[u64]) -> Second {
        let mut histogram = latencies();
        us.iter().for_each(|us| histogram.saturating_record(us * 1_000));
        Second {
            requests: histogram.len(),
            operations: histogram.len(),
            failed: 1,
            latency_us: Percentiles::of(&histogram),
            heat: heat(&histogram),
            server_cpu: Some(0.5),
            generator_cpu: 0.25,
        }
    }

    fn timeline(seconds: usize) -> Timeline {
        let seconds: Vec<_> = (0..seconds as u64).map(|at| second(&[10 + at, 100, 100, 5_000])).collect();
        Timeline::of(&seconds, seconds.len() as f64).unwrap()
    }

    /// Its first digits, between 1 and 10.
    fn mantissa(value: f64) -> f64 {
        let digits = value / 10_f64.powf(value.log10().floor());
        let near = digits.round();
        if (digits - near).abs() < 1e-6 { near % 9.0 + if near == 9.0 { 9.0 } else { 0.0 } } else { digits }
    }

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        for max in [0.3, 1.0, 7.0, 999.0, 50_000.0, 178_345.0, 1e6] {
            let ticks = linear_ticks(max, 5);
            assert!([1.0, 2.0, 5.0].contains(&mantissa(ticks[1].at)), "{max}: {ticks:?}");
            assert!(
                top(&ticks) >= max * 0.999 && top(&ticks) < max * 2.0 && ticks.len() <= 7,
                "{max}: {ticks:?}"
            );
        }
        for (from, to) in [(3.0, 4.0), (90.0, 120_000.0), (1.0, 1e8), (1_000.0, 1_000.0)] {
            let range = log_range(from, to);
            assert!(range.0 <= from && range.1 >= to && range.1 / range.0 >= 9.99, "{range:?}");
            let ticks = latency_ticks(range);
            assert!((4..=12).contains(&ticks.len()), "{from} to {to}: {ticks:?}");
            assert!(ticks.iter().all(|tick| [1.0, 2.0, 5.0].contains(&mantissa(tick.at))), "{ticks:?}");
        }
        assert_eq!(mantissa(300.0), 3.0);
        let labels =
            |ticks: Vec<Tick>| ticks.into_iter().map(|tick| tick.label).collect::<Vec<_>>().join(",");
        assert_eq!(labels(linear_ticks(1.4e6, 5)), "0,500\u{a0}k,1\u{a0}M,1.5\u{a0}M");
        assert_eq!(
            labels(latency_ticks((10.0, 1e6))),
            "10\u{a0}µs,100\u{a0}µs,1\u{a0}ms,10\u{a0}ms,100\u{a0}ms,1\u{a0}s"
        );
        assert_eq!(labels(time_ticks(1.0)), "0 s,0.2 s,0.4 s,0.6 s,0.8 s,1 s");
        assert_eq!(labels(time_ticks(60.0)), "0 s,10 s,20 s,30 s,40 s,50 s,60 s");
        assert_eq!(labels(time_ticks(3_600.0)), "0 min,10 min,20 min,30 min,40 min,50 min,60 min");
        assert!(time_ticks(1e6).len() <= 9);
    }

    #[test]
    fn percentiles_end_where_requests_do() {
        let labels = |nines| percentile_ticks(nines).into_iter().map(|tick| tick.label).collect::<Vec<_>>();
        assert_eq!(labels(3.9), ["0 %", "50 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!(labels(5.0).last().unwrap(), "99.999 %");
    }

    #[test]
    fn curve_rises_from_the_fastest_to_the_slowest() {
        let mut histogram = latencies();
        (1..=10_000_u64).for_each(|us| histogram.saturating_record(us * 1_000));
        let points = curve_points(&histogram);
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(*points.last().unwrap(), (4.0, histogram.max() as f64 / 1e3));
        let median = points.iter().find(|point| point.0 >= 2.0_f64.log10()).unwrap();
        assert!((median.1 - 5_000.0).abs() < 200.0, "{median:?}");
        assert!(curve_points(&latencies()).is_empty());
    }

    #[test]
    fn level_curves_need_two_points() {
        let mut histogram = latencies();
        (0..1_000).for_each(|_| histogram.saturating_record(50_000));
        assert_eq!(curve_points(&histogram).len(), 2);
    }

    #[test]
    fn columns_keep_every_request_and_second() {
        for seconds in [1, 300, 301, 3_600] {
            let timeline = timeline(seconds);
            let requests: u64 = timeline.columns.iter().map(|column| column.heat.iter().sum::<u64>()).sum();
            let cells: u64 = timeline.columns.iter().flat_map(|column| &column.heat).sum();
            assert_eq!((requests, cells), (seconds as u64 * 4, seconds as u64 * 4));
            assert!(timeline.columns.len() <= COLUMNS_MAX);
            assert!(timeline.columns.windows(2).all(|pair| pair[0].to == pair[1].from));
            let last = timeline.columns.last().unwrap();
            assert_eq!((last.to, last.rate(last.failed as f64)), (seconds as f64, 1.0));
        }
    }

    /// Area of the rectangles of a path, in cells.
    fn cells_of(path: &str) -> f64 {
        let width = |rectangle: &str| rectangle.split(['h', 'v']).nth(1).unwrap().parse::<f64>().unwrap();
        path.split('M').skip(1).map(width).sum()
    }

    #[test]
    fn every_cell_in_use_is_drawn_once() {
        let timeline = timeline(40);
        let rows = crate::result::HEAT_ROWS;
        let paths = cell_paths(&timeline, 0, rows - 1, timeline.hottest());
        let used =
            timeline.columns.iter().flat_map(|column| &column.heat).filter(|count| **count > 0).count();
        assert_eq!(paths.iter().map(|path| cells_of(path)).sum::<f64>(), used as f64);
        let hottest =
            timeline.columns.iter().flat_map(|column| &column.heat).filter(|count| **count == 2).count();
        assert!(hottest > 0 && cells_of(&paths[SHADES - 1]) >= hottest as f64);
    }

    #[test]
    fn percentiles_of_merged_seconds_are_near_the_exact_ones() {
        let mut histogram = latencies();
        (1..=10_000_u64).for_each(|us| histogram.saturating_record(us * 1_000));
        for quantile in [0.1, 0.5, 0.99] {
            let (read, exact) = (quantile_of(&heat(&histogram), quantile).unwrap(), quantile * 10_000.0);
            assert!((read / exact - 1.0).abs() < 0.05, "{read} for {exact}");
        }
        assert_eq!((quantile_of(&[], 0.5), quantile_of(&[0, 0], 0.5)), (None, None));
        let seconds: Vec<_> =
            (0..301).map(|at| second(if at == 5 { &[90_000] } else { &[100; 9] })).collect();
        let timeline = Timeline::of(&seconds, 301.0).unwrap();
        assert!(
            timeline.columns.iter().all(|column| column.p50.is_some_and(|us| (99.0..126.0).contains(&us)))
        );
    }

    #[test]
    fn shades_rise_with_the_requests() {
        assert_eq!((shade(0, 10), shade(1, 1), shade(10, 10)), (None, Some(SHADES - 1), Some(SHADES - 1)));
        assert!((1..1_000).all(|count| shade(count, 1_000) <= shade(count + 1, 1_000)));
        assert!(shade(1, 1_000_000) == Some(0));
    }

    #[test]
    fn cut_second_keeps_its_rate() {
        let seconds = [second(&[10; 100]), second(&[10; 50])];
        let timeline = Timeline::of(&seconds, 1.5).unwrap();
        let rates: Vec<_> = timeline
            .columns
            .iter()
            .map(|column| column.rate(column.heat.iter().sum::<u64>() as f64))
            .collect();
        assert_eq!(rates, [100.0, 100.0]);
        assert!(Timeline::of(&[], 0.0).is_none());
    }

    #[test]
    fn lines_have_gaps_where_nothing_was_answered() {
        let seconds = [second(&[10]), second(&[]), second(&[10])];
        let timeline = Timeline::of(&seconds, 3.0).unwrap();
        let y = Scale::logarithmic((1.0, 100.0), (100.0, 0.0));
        assert_eq!(timeline.steps(&y, |column| column.p50).matches('M').count(), 2);
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let times = [0.0, 0.25, 1.0, 456.4, 999.6, 1_234.0, 12_340.0, 5e6, f64::NAN].map(duration);
        let expected =
            ["0 µs", "250 ns", "1.00 µs", "456 µs", "1.00 ms", "1.23 ms", "12.3 ms", "5.00 s", "–"];
        assert_eq!(times.map(|time| time.replace('\u{a0}', " ")), expected);
        let counts = [0.0, 7.0, 12.34, 1_000.0, 178_345.0, 2.5e6].map(count);
        assert_eq!(
            counts.map(|count| count.replace('\u{a0}', " ")),
            ["0", "7", "12.3", "1.00 k", "178 k", "2.50 M"]
        );
    }
}
