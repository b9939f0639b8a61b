//! One page that holds a whole run: figures, charts, tables. It asks for nothing from outside and runs no
//! program, so it can be kept, sent and shown. The charts are drawn by [`super::svg`].

use super::svg::{self, Curve, Timeline, count, duration};
use crate::result::{Figures, Percentiles, RunResult};
use std::fmt::Write as _;

/// Colours of the heat map from few requests to many, even in lightness (OKLCH), on a light page.
const SHADES_LIGHT: [&str; svg::SHADES] = [
    "#cfedfc", "#abddf9", "#88ccf5", "#68baf0", "#4ba7e8", "#3393de", "#227fd0", "#1b6cbf", "#1b59aa",
    "#1d4792", "#1c3778", "#1a295c",
];
/// The same on a dark page.
const SHADES_DARK: [&str; svg::SHADES] = [
    "#1f3172", "#19428c", "#0256a3", "#036bae", "#007fbb", "#0894c8", "#05a9d5", "#35bdde", "#64cfe3",
    "#8edfe8", "#b8eeef", "#dffcf9",
];
/// Lines differ in dashes too, for eyes and printers that do not tell the colours apart.
const STYLE: &str = r#"
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--ink:#16191d;--soft:#555d68;--grid:#e3e6ea;
--axis:#8a929d;
--warn:#9a2a00;--warn-page:#fff0e6;--blue:#0067b5;--red:#c24a00;--green:#007d58;--pink:#a8327f;
--ochre:#856100;--sky:#0a83a8;
--area:#0067b522}
@media (prefers-color-scheme:dark){:root{--page:#0f1216;--card:#181c22;--ink:#eef1f5;--soft:#a3acb8;
--grid:#2a3038;
--axis:#6b7480;--warn:#ff9d66;--warn-page:#3a1d0c;--blue:#5aabff;--red:#ff8a47;--green:#33c799;
--pink:#ee8bc8;--ochre:#dfb748;
--sky:#62cbea;--area:#5aabff2b}}
*{box-sizing:border-box}
body{margin:0 auto;padding:28px 20px 48px;max-width:1000px;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;-webkit-text-size-adjust:100%}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:0 0 2px}
p{margin:0}
.soft,figcaption,small{color:var(--soft)}
.soft{overflow-wrap:anywhere}
section,figure,.tile{background:var(--card);border:1px solid var(--grid);border-radius:10px;
padding:18px 20px;margin:16px 0 0}
.invalid{background:var(--warn-page);color:var(--warn);border:2px solid var(--warn)}
.invalid ul,.notes ul{margin:6px 0 0;padding-left:1.2em}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:12px;margin-top:16px}
.tile{margin:0;padding:12px 16px}
.tile b{display:block;font-size:1.7rem;line-height:1.25;font-weight:650;white-space:nowrap;
font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.9rem}
.tile.bad b{color:var(--warn)}
figcaption{font-size:.95rem;margin-bottom:8px}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:4px 18px;list-style:none;margin:0 0 8px;
padding:0;font-size:.95rem}
.legend li{display:flex;align-items:center;gap:7px}
.legend svg{width:30px;height:12px;flex:none}
.legend i{width:14px;height:14px}
.legend .ramp{display:flex}
figure>svg{display:block;height:auto;overflow:visible}
text{fill:var(--soft);font-size:12px}
.name{fill:var(--soft)}
.end{text-anchor:end}
.middle{text-anchor:middle}
.mark{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px;
stroke-linejoin:round}
.grid{stroke:var(--grid);fill:none}
.axis{stroke:var(--axis);fill:none}
.line{fill:none;stroke:var(--colour);stroke-width:2;stroke-linejoin:round}
.dot{fill:var(--colour);stroke:var(--card);stroke-width:1.5}
.total,.p50{--colour:var(--ink)}
.line.total{stroke-width:3}
.k0,.throughput,.server{--colour:var(--blue)}
.k1,.p99,.generator{--colour:var(--red)}
.k2{--colour:var(--green)}
.k3{--colour:var(--pink)}
.k4{--colour:var(--ochre)}
.k5{--colour:var(--sky)}
.line.k1{stroke-dasharray:9 3}
.line.k2{stroke-dasharray:3 3}
.line.k3{stroke-dasharray:10 3 3 3}
.line.k4{stroke-dasharray:14 4}
.line.k5{stroke-dasharray:6 2 2 2 2 2}
.line.p50,.line.p99{stroke-width:1.8}
.line.halo{stroke:var(--card);stroke-width:4.2}
.line.offered{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:5 4}
.line.generator{stroke-dasharray:9 3}
.area{fill:var(--area)}
.failures{fill:var(--red)}
.cells{shape-rendering:crispEdges}
.hit{fill:transparent}
.hit:hover{fill:var(--axis);fill-opacity:.25}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.95rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:650;padding-bottom:4px}
td,th{padding:5px 14px 5px 0;border-top:1px solid var(--grid);text-align:left;vertical-align:top;
font-weight:400}
thead th{border-top:0;font-weight:650}
.figures td,.figures thead th+th{text-align:right;white-space:nowrap;padding:5px 0 5px 14px}
tbody th{color:var(--soft)}
.words td{overflow-wrap:anywhere}
.words th{width:34%}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:0 16px;align-items:start}
pre{margin:8px 0 0;padding:12px 14px;background:var(--page);border:1px solid var(--grid);border-radius:6px;
font-size:.88rem;
white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:680px){body{padding:16px 10px 32px}.tiles{grid-template-columns:1fr 1fr;gap:8px}
section,figure{padding:14px 12px}.tile{padding:10px 12px}.tile b{font-size:1.4rem}h1{font-size:1.5rem}
.pair{display:block}
text{font-size:24px}.other,.wide,.name{display:none}.line{stroke-width:3}.line.total{stroke-width:4}
.line.halo{stroke-width:6}.line.p50,.line.p99{stroke-width:2.6}.legend .line{stroke-width:2}}
@media print{body{max-width:none;padding:0}section,figure,.tile{break-inside:avoid}}
"#;
/// Parts of the workload that are told in the head.
const PARTS_IN_HEAD: usize = 4;
/// What stands where there is no figure.
const NONE: &str = "–";

/// What a string takes.
const TAKES_ALL: &str = "a string takes all that is written";

/// The report as a page without outside assets.
pub(crate) fn page(run: &RunResult) -> String {
    let server = escape(&run.workload.server);
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n";
    writeln!(page, "<title>Load test of {server}</title>\n<style>{STYLE}{}</style>", shades())
        .expect(TAKES_ALL);
    writeln!(page, "</head>\n<body>\n<header>\n<h1>Load test of {server}</h1>").expect(TAKES_ALL);
    writeln!(page, "<p class=\"soft\">{} · {}</p>\n</header>", utc(run.begun_at_ms), workload(run))
        .expect(TAKES_ALL);
    page += &remarks("invalid", "These figures are not to be used", &run.invalid);
    page += &remarks("notes", "Notes", &run.notes);
    page += &tiles(run);
    page += &percentile_chart(run);
    match Timeline::of(&run.seconds_of, run.seconds) {
        Some(timeline) => {
            page += &heat_chart(&timeline);
            page += &throughput_chart(run, &timeline);
            page += &cpu_chart(run, &timeline);
        }
        None => page += &figure("Over time", "No second was measured, so there is nothing to draw.", "", ""),
    }
    page += &kinds_table(run);
    page += &words_tables(run);
    page + "</body>\n</html>\n"
}

/// The workload in one line, escaped.
fn workload(run: &RunResult) -> String {
    let mut words = vec![match (run.workload.rate, run.workload.in_flight) {
        (Some(rate), _) => format!("open loop, {} requests/s offered", thousands(rate)),
        (None, Some(in_flight)) => format!("closed loop, {} in flight", thousands(in_flight as f64)),
        (None, None) => "closed loop".to_owned(),
    }];
    words.push(format!("{} s measured", thousands(run.seconds)));
    words.extend(run.workload.parts.iter().take(PARTS_IN_HEAD).map(|(_, how)| escape(how)));
    words.join(" · ")
}

/// A list under a heading, or nothing.
fn remarks(class: &str, heading: &str, remarks: &[String]) -> String {
    if remarks.is_empty() {
        return String::new();
    }
    let items: String = remarks.iter().map(|remark| format!("<li>{}</li>", escape(remark))).collect();
    format!("<section class=\"{class}\">\n<h2>{heading}</h2>\n<ul>{items}</ul>\n</section>\n")
}

/// The figures to look at first.
fn tiles(run: &RunResult) -> String {
    let total = &run.total;
    let latency = |of: fn(&Percentiles) -> f64| match total.requests {
        0 => NONE.to_owned(),
        _ => duration(of(&total.latency_us)),
    };
    let cpu = |us: Option<f64>| match us {
        Some(us) if total.operations > 0 => duration(us),
        _ => NONE.to_owned(),
    };
    let tile = |name: &str, value: &str, bad: bool| {
        let bad = if bad { " bad" } else { "" };
        format!("<div class=\"tile{bad}\"><b>{value}</b><span>{name}</span></div>\n")
    };
    let failed = total.failed();
    [
        "<div class=\"tiles\">\n".to_owned(),
        tile("operations per second", &format!("{}/s", count(total.operations_per_second)), false),
        tile("median latency (p50)", &latency(|latency| latency.p50), false),
        tile("99 % are faster (p99)", &latency(|latency| latency.p99), false),
        tile("99.9 % are faster (p99.9)", &latency(|latency| latency.p999), false),
        tile("slowest request", &latency(|latency| latency.max), false),
        tile("failures", &count(failed as f64), failed > 0),
        tile("server CPU/operation", &cpu(run.cpu.server_us_per_operation), false),
        tile("generator CPU/operation", &cpu(Some(run.cpu.generator_us_per_operation)), false),
        "</div>\n".to_owned(),
    ]
    .concat()
}

/// A chart with its heading, what it shows, and a legend.
fn figure(heading: &str, caption: &str, legend: &str, chart: &str) -> String {
    format!("<figure>\n<h2>{heading}</h2>\n<figcaption>{caption}</figcaption>\n{legend}{chart}</figure>\n")
}

/// Pairs of a CSS class and what it stands for.
fn legend(items: &[(&str, String)]) -> String {
    let item = |(class, text): &(&str, String)| {
        let shape = match *class {
            "failures" => "<rect class=\"failures\" x=\"9\" y=\"0\" width=\"12\" height=\"12\"/>".to_owned(),
            class => format!("<path class=\"line {class}\" d=\"M0 6H30\"/>"),
        };
        format!("<li><svg viewBox=\"0 0 30 12\">{shape}</svg>{}</li>", escape(text))
    };
    format!("<ul class=\"legend\">{}</ul>\n", items.iter().map(item).collect::<String>())
}

fn percentile_chart(run: &RunResult) -> String {
    let heading = "Latency by percentile";
    let kinds = run.kinds.iter().filter(|(_, figures)| figures.requests > 0);
    let mut figures = vec![("total", "all requests", &run.total)];
    let classes = ["k0", "k1", "k2", "k3", "k4", "k5"];
    // A single kind would only hide the total's line.
    if kinds.clone().count() > 1 {
        figures.extend(kinds.map(|(kind, figures)| (classes[*kind as usize], kind.name(), figures)));
    } else if let Some((kind, _)) = kinds.clone().next() {
        figures[0].1 = kind.name();
    }
    let mut histograms = Vec::new();
    for (class, name, figures) in figures {
        match figures.latencies() {
            Ok(latencies) => histograms.push((class, name, latencies)),
            Err(error) => {
                let why =
                    format!("The distribution of {name} cannot be read: {}", escape(&error.to_string()));
                return figure(heading, &why, "", "");
            }
        }
    }
    let curves: Vec<_> = histograms.iter().map(|(class, _, latencies)| Curve { class, latencies }).collect();
    let Some(chart) = svg::percentiles(&curves) else {
        return figure(heading, "No request was answered, so there is no curve.", "", "");
    };
    let items: Vec<_> = histograms.iter().map(|(class, name, _)| (*class, (*name).to_owned())).collect();
    let caption = "How long the slowest requests took: the further right, the rarer. Each curve ends at its \
                   slowest request; a latency counts from the time at which the request was due.";
    figure(heading, caption, &legend(&items), &chart)
}

fn heat_chart(timeline: &Timeline) -> String {
    let heading = "Latency over time";
    let Some(chart) = svg::heat_map(timeline) else {
        return figure(heading, "No request was answered, so there is no map.", "", "");
    };
    let mut caption =
        String::from("The colour of a cell tells how many requests of that time took that long.");
    if timeline.width > 1 {
        write!(caption, " Columns hold {} s each; their percentiles are read off the cells.", timeline.width)
            .expect(TAKES_ALL);
    }
    let swatches: String = (0..svg::SHADES).map(|shade| format!("<i class=\"h{shade}\"></i>")).collect();
    let key = format!(
        "<li>1 <span class=\"ramp\">{swatches}</span> {} requests per cell</li>",
        count(timeline.hottest() as f64)
    );
    let lines = legend(&[("p50", "p50".to_owned()), ("p99", "p99".to_owned())]);
    figure(heading, &caption, &lines.replace("</ul>", &format!("{key}</ul>")), &chart)
}

fn throughput_chart(run: &RunResult, timeline: &Timeline) -> String {
    // An offered rate is one of requests, and comparable only if each is one operation.
    let comparable = run.total.operations == run.total.requests;
    let offered = run.workload.rate.filter(|rate| comparable && rate.is_finite());
    let mut items = vec![("throughput", "operations answered well".to_owned())];
    items.extend(offered.map(|rate| ("offered", format!("offered: {}/s", count(rate)))));
    let caption = match timeline.failed() {
        true => {
            items.push(("failures", "failures".to_owned()));
            "Operations a second; below them failures a second, on a scale of their own."
        }
        false => "Operations a second. None failed.",
    };
    figure("Throughput", caption, &legend(&items), &svg::throughput(timeline, offered))
}

fn cpu_chart(run: &RunResult, timeline: &Timeline) -> String {
    // Far above the lines it would only press them to the ground.
    let cpus = Some(run.machine.cpus).filter(|cpus| *cpus > 0 && *cpus as f64 <= timeline.cores_max() * 2.5);
    let mut items = Vec::new();
    if timeline.server_is_known() {
        items.push(("server", "server".to_owned()));
    }
    items.push(("generator", "generator".to_owned()));
    items.extend(cpus.map(|cpus| ("offered", format!("CPUs of the machine: {cpus}"))));
    let caption = match timeline.server_is_known() {
        true => "Cores in use by the server and by the load generator.",
        false => "Cores in use by the load generator. The server's process is not known.",
    };
    figure("CPU", caption, &legend(&items), &svg::cpu(timeline, cpus))
}

/// Rows of figures by name, a column each of everything and of the kinds.
fn kinds_table(run: &RunResult) -> String {
    // The first column is what a narrow screen shows.
    let mut columns: Vec<(&str, &Figures)> = vec![("total", &run.total)];
    columns.extend(run.kinds.iter().map(|(kind, figures)| (kind.name(), figures)));
    let mut rows = String::new();
    let mut row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        let cells: String =
            columns.iter().map(|(_, figures)| format!("<td>{}</td>", cell(figures))).collect();
        writeln!(rows, "<tr><th scope=\"row\">{}</th>{cells}</tr>", escape(name)).expect(TAKES_ALL);
    };
    row("requests", &|figures| thousands(figures.requests as f64));
    row("operations", &|figures| thousands(figures.operations as f64));
    row("operations/s", &|figures| count(figures.operations_per_second));
    for (name, of) in PERCENTILES {
        row(name, &|figures| {
            if figures.requests > 0 { duration(of(&figures.latency_us)) } else { NONE.to_owned() }
        });
    }
    let mut reasons: Vec<&String> = columns.iter().flat_map(|(_, figures)| figures.failures.keys()).collect();
    reasons.sort();
    reasons.dedup();
    row("failures", &|figures| thousands(figures.failed() as f64));
    for reason in reasons {
        let failed = |figures: &Figures| figures.failures.get(reason).copied().unwrap_or(0);
        row(&format!("failed: {reason}"), &|figures| thousands(failed(figures) as f64));
    }
    row("reads that found nothing", &|figures| thousands(figures.absent as f64));
    let names: String = columns.iter().map(|(name, _)| format!("<th scope=\"col\">{name}</th>")).collect();
    format!(
        "<section>\n<h2>Figures by kind of operation</h2>\n<div class=\"scroll\"><table class=\"figures\">\n\
         <thead><tr><th></th>{names}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n</section>\n"
    )
}

/// What a row of a table shows.
type Row = (&'static str, fn(&Percentiles) -> f64);

/// Rows of a distribution.
const PERCENTILES: [Row; 7] = [
    ("mean latency", |of| of.mean),
    ("p50", |of| of.p50),
    ("p90", |of| of.p90),
    ("p99", |of| of.p99),
    ("p99.9", |of| of.p999),
    ("p99.99", |of| of.p9999),
    ("slowest", |of| of.max),
];

/// Everything else, as pairs.
fn words_tables(run: &RunResult) -> String {
    let machine = &run.machine;
    let gib = |bytes: u64| format!("{:.1}\u{a0}GiB", bytes as f64 / (1_u64 << 30) as f64);
    let lag = run.lag_us.map(|lag| {
        let rows = PERCENTILES.map(|(name, of)| (name.replace(" latency", ""), duration(of(&lag))));
        table("Generator lag: how late requests began", "figures", rows)
    });
    let lost = [
        ("connections lost", run.connections_lost),
        ("requests without an answer", run.unanswered),
        ("requests due, never begun", run.never_begun),
    ];
    let lost: Vec<_> = lost
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), thousands(count as f64)))
        .collect();
    let lost = (!lost.is_empty()).then(|| table("Lost", "figures", lost));
    let parts = run.workload.parts.iter().cloned();
    let machine = [
        ("processor", machine.processor.clone()),
        ("CPUs", machine.cpus.to_string()),
        ("memory", gib(machine.memory_bytes)),
        ("kernel", machine.kernel.clone()),
    ];
    let machine = machine.map(|(name, value)| (name.to_owned(), value));
    let versions = run.versions.iter().map(|(name, version)| (name.clone(), version.clone()));
    let left = [Some(table("Workload", "words", parts)), lag].into_iter().flatten().collect::<String>();
    let right = [
        lost,
        Some(cpu_table(run)),
        Some(table("Machine of the generator", "words", machine)),
        Some(table("Versions", "words", versions)),
    ];
    let right = right.into_iter().flatten().collect::<String>();
    let command = escape(&run.command);
    format!(
        "<div class=\"pair\"><div>\n{left}</div><div>\n{right}</div></div>\n\
         <section>\n<h2>Command</h2>\n<pre>{command}</pre>\n</section>\n"
    )
}

fn cpu_table(run: &RunResult) -> String {
    let figures = [
        ("server, per operation", run.cpu.server_us_per_operation.map(duration)),
        ("server, cores", run.cpu.server_cores.map(cores)),
        ("generator, per operation", Some(duration(run.cpu.generator_us_per_operation))),
        ("generator, cores", Some(cores(run.cpu.generator_cores))),
    ];
    let rows = figures.map(|(name, figure)| (name.to_owned(), figure.unwrap_or_else(|| NONE.to_owned())));
    table("CPU time", "figures", rows)
}

/// Pairs under a heading, or nothing.
fn table(heading: &str, class: &str, rows: impl IntoIterator<Item = (String, String)>) -> String {
    let row = |(name, value): (String, String)| {
        format!("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape(&name), escape(&value))
    };
    let rows: String = rows.into_iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>{heading}</h2>\n<table class=\"{class}\"><tbody>\n{rows}</tbody></table>\n</section>\n"
    )
}

/// The style of the heat map's shades, in a chart and in its key.
fn shades() -> String {
    let rules = |shades: &[&str]| -> String {
        let rule =
            |(index, colour): (usize, &&str)| format!(".h{index}{{fill:{colour};background:{colour}}}");
        shades.iter().enumerate().map(rule).collect()
    };
    format!("{}\n@media (prefers-color-scheme:dark){{{}}}\n", rules(&SHADES_LIGHT), rules(&SHADES_DARK))
}

/// Text for elements and for attributes in double quotes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

fn cores(cores: f64) -> String {
    if cores.is_finite() { format!("{cores:.2}") } else { NONE.to_owned() }
}

/// All digits in groups of three; one place behind the point if it is no whole number.
fn thousands(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{value:.1}");
    let (whole, part) = text.split_once('.').expect("one place was asked for");
    let mut grouped = String::new();
    for (index, digit) in whole.char_indices() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    if part == "0" { grouped } else { format!("{grouped}.{part}") }
}

/// Milliseconds since 1970 as date and time. The calendar repeats every 400 years, 146 097 days; its years
/// begin in March here, so that a leap day is the last of its year.
fn utc(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // From 1 March of year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Tally, latencies};
    use crate::result::{Second, heat};
    use crate::workload::mix::Kind;
    use hdrhistogram::Histogram;
    use ringcore::types::prng::Prng;
    use std::collections::BTreeMap;
    use std::{env, fs};

    /// Latencies as services have them: a hump, a long tail, now and then a stall. ns.
    fn sample(prng: &mut Prng, requests: u64, slow: f64) -> Histogram<u64> {
        let mut histogram = latencies();
        for _ in 0..requests {
            let unit = |prng: &mut Prng| (prng.below(1 << 30) + 1) as f64 / (1_u64 << 30) as f64;
            let hump: f64 = (0..6).map(|_| unit(prng)).sum::<f64>() / 6.0;
            let tail = unit(prng).powf(-0.35);
            histogram.saturating_record((slow * 90_000.0 * (hump * 3.0).exp() * tail) as u64);
        }
        histogram
    }

    fn tally(latencies: Histogram<u64>) -> Tally {
        Tally { operations: latencies.len(), latencies, ..Tally::default() }
    }

    /// A run of `seconds` seconds with so many requests a second of each kind.
    fn run(seconds: usize, per_second: u64, kinds: &[Kind]) -> RunResult {
        let mut prng = Prng::new(seconds as u64 + 7);
        let mut tallies: BTreeMap<Kind, Tally> = kinds.iter().map(|kind| (*kind, Tally::default())).collect();
        let mut total = Tally::default();
        let mut seconds_of = Vec::new();
        for second in 0..seconds {
            let stalled = second % (seconds / 2).max(20) == 17;
            let mut all = latencies();
            for (index, (_, of)) in tallies.iter_mut().enumerate() {
                let slow = (1.0 + index as f64) * if stalled { 8.0 } else { 1.0 };
                let part = tally(sample(&mut prng, per_second, slow));
                all.add(&part.latencies).unwrap();
                of.add(&part);
                total.add(&part);
            }
            seconds_of.push(Second {
                requests: all.len(),
                operations: all.len(),
                failed: if stalled { 12 } else { 0 },
                latency_us: Percentiles::of(&all),
                heat: heat(&all),
                server_cpu: Some(0.8 + prng.below(100) as f64 / 1e3),
                generator_cpu: 0.4 + prng.below(100) as f64 / 1e3,
            });
        }
        RunResult {
            total: Figures::of(&total, seconds as f64),
            kinds: tallies.iter().map(|(kind, of)| (*kind, Figures::of(of, seconds as f64))).collect(),
            seconds_of,
            ..RunResult::blank(seconds as f64)
        }
    }

    /// A run in which everything happened.
    fn full(seconds: usize, per_second: u64) -> RunResult {
        let mut run = run(seconds, per_second, &[Kind::Read, Kind::Update, Kind::Scan]);
        run.workload.rate = Some(per_second as f64 * 3.0);
        run.lag_us = Some(run.total.latency_us);
        run.invalid.push("the generator was late: p99 of its lag is 2.1 ms, more than 1 ms".to_owned());
        run.notes.push("server and generator shared the machine's 2 CPUs".to_owned());
        run.total.failures.insert("DEADLINE_EXCEEDED".to_owned(), 24);
        run.kinds.get_mut(&Kind::Read).unwrap().failures.insert("DEADLINE_EXCEEDED".to_owned(), 24);
        run.total.absent = 12_345;
        (run.connections_lost, run.unanswered, run.never_begun) = (1, 2, 30_000);
        run
    }

    /// Says what is wrong with the tags of a page.
    fn faults(page: &str) -> Vec<String> {
        let (mut open, mut faults) = (Vec::new(), Vec::new());
        let start = page.find("<html").unwrap_or(0);
        for piece in page[start..].split('<').skip(1) {
            let Some((tag, text)) = piece.split_once('>') else {
                faults.push(format!("not closed: {piece}"));
                continue;
            };
            if tag.matches('"').count() % 2 == 1 {
                faults.push(format!("quotes: {tag}"));
            }
            let in_style = open.last() == Some(&"style");
            let named = |text: &str| text.split_once(';').is_some_and(|(name, _)| name.len() < 6);
            if !in_style && !text.split('&').skip(1).all(named) {
                faults.push(format!("a bare ampersand: {text}"));
            }
            let name = tag.split([' ', '\n']).next().unwrap_or_default();
            match tag.strip_prefix('/') {
                Some(name) if open.last() == Some(&name) => drop(open.pop()),
                Some(name) => faults.push(format!("</{name}> within {open:?}")),
                None if tag.ends_with('/') => {}
                None => open.push(name),
            }
        }
        if !open.is_empty() {
            faults.push(format!("left open: {open:?}"));
        }
        faults
    }

    /// What no page may have.
    fn asserts_sound(page: &str) {
        assert_eq!(faults(page), Vec::<String>::new());
        for banned in ["http://", "https://", "<script", "url(", "@import"] {
            assert!(!page.contains(banned), "{banned}");
        }
        let words = page.split(|letter: char| !letter.is_alphanumeric());
        let broken: Vec<_> = words.filter(|word| ["NaN", "inf", "infinity"].contains(word)).collect();
        assert_eq!(broken, Vec::<&str>::new());
    }

    /// Kept for looking at it, if a directory is named.
    fn keep(name: &str, page: &str) {
        if env::var_os("RINGBENCH_PAGE").is_some() {
            fs::write(env::temp_dir().join(format!("ringbench-{name}.html")), page).unwrap();
        }
    }

    #[test]
    fn checker_of_tags_finds_what_is_planted() {
        assert_eq!(faults("<html><p a=\"b\">x &amp; y</p><br/></html>"), Vec::<String>::new());
        for broken in ["<p>", "</p>", "<p a=\"></p>", "a & b", "a < b", "<p><b></p></b>"] {
            assert!(!faults(&format!("<html>{broken}</html>")).is_empty(), "{broken}");
        }
    }

    #[test]
    fn full_page_is_sound_and_tells_everything() {
        let run = full(60, 500);
        let page = page(&run);
        keep("full", &page);
        asserts_sound(&page);
        for told in [
            "These figures are not to be used",
            "p99 of its lag is 2.1 ms",
            "2026-07-25 17:20:00 UTC",
            "DEADLINE_EXCEEDED",
            "30\u{202f}000",
            "12\u{202f}345",
            "Some Processor 9000",
            "25.0\u{a0}GiB",
            "ringbench run --server ringcore",
            "4.56\u{a0}µs",
            "99.99 %",
        ] {
            assert!(page.contains(told), "{told}");
        }
        assert!(!page.contains("read-modify-write"), "a kind that was not asked for");
        assert_eq!(page.matches("<figure>").count(), 4);
    }

    #[test]
    fn text_from_outside_is_escaped() {
        let mut run = full(1, 5);
        let evil = "<b>\"&'</b>";
        run.workload.server = evil.to_owned();
        run.workload.parts.push((evil.to_owned(), evil.to_owned()));
        run.command = evil.to_owned();
        run.invalid.push(evil.to_owned());
        run.notes.push(evil.to_owned());
        run.machine.processor = evil.to_owned();
        run.machine.kernel = evil.to_owned();
        run.versions.insert(evil.to_owned(), evil.to_owned());
        run.total.failures.insert(evil.to_owned(), 1);
        let page = page(&run);
        asserts_sound(&page);
        assert!(!page.contains(evil) && !page.contains("<b>\""));
        assert_eq!(page.matches("&lt;b&gt;&quot;&amp;&#39;&lt;/b&gt;").count(), 13);
    }

    #[test]
    fn nothing_measured_is_a_page_too() {
        let mut run = run(0, 0, &[Kind::Read]);
        run.cpu.server_us_per_operation = None;
        run.cpu.generator_us_per_operation = f64::NAN;
        run.total.operations_per_second = f64::NAN;
        let empty = page(&run);
        keep("empty", &empty);
        asserts_sound(&empty);
        assert!(empty.contains("No request was answered") && empty.contains("No second was measured"));
        assert!(
            !empty.contains("<h2>Notes") && !empty.contains("not to be used") && !empty.contains("<h2>Lost")
        );
    }

    #[test]
    fn seconds_without_answers_are_drawn() {
        let mut run = run(3, 0, &[Kind::Read]);
        run.seconds_of[1].failed = 5;
        let page = page(&run);
        keep("refused", &page);
        asserts_sound(&page);
        assert!(page.contains("there is no map") && page.contains("class=\"failures\""));
    }

    #[test]
    fn one_second_of_one_kind_without_server_cpu() {
        let mut run = run(1, 40, &[Kind::Insert]);
        run.seconds_of[0].server_cpu = None;
        (run.cpu.server_cores, run.cpu.server_us_per_operation) = (None, None);
        let page = page(&run);
        keep("second", &page);
        asserts_sound(&page);
        assert!(page.contains("process is not known") && !page.contains("line server"));
        assert!(!page.contains("class=\"line k"), "one kind needs no line of its own");
    }

    #[test]
    fn hour_long_run_stays_small() {
        let mut run = run(180, 100, &[Kind::Read, Kind::Update]);
        run.seconds_of = run.seconds_of.iter().cycle().take(3_600).cloned().collect();
        run.seconds = 3_600.0;
        let page = page(&run);
        keep("hour", &page);
        asserts_sound(&page);
        assert!(page.contains("Columns hold 12 s each") && page.contains("60 min"));
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }

    #[test]
    fn unreadable_distribution_is_told() {
        let mut run = run(2, 10, &[Kind::Read]);
        run.total.histogram = "?".to_owned();
        let page = page(&run);
        asserts_sound(&page);
        assert!(page.contains("cannot be read"));
    }

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_709_251_199_999), "2024-02-29 23:59:59 UTC");
        assert_eq!(utc(1_735_689_600_000), "2025-01-01 00:00:00 UTC");
    }

    #[test]
    fn whole_numbers_are_grouped() {
        let words = [0.0, 999.0, 1_000.0, 1_234_567.0, 12.5].map(thousands);
        assert_eq!(words, ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567", "12.5"]);
    }
}
