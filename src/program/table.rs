//! Rows for the eye: columns as wide as their widest cell. Knows nothing of what stands in them.

/// Lays rows out under their headings, columns two blanks apart, no blanks at the end of a line.
pub fn lay_out<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let headings = headings.map(str::to_owned);
    let mut widths = [0; N];
    for row in std::iter::once(&headings).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_without_blanks() {
        let rows = [["a".into(), "1".into()], ["longer".into(), String::new()]];
        assert_eq!(lay_out(["NAME", "N"], &rows), "NAME    N\na       1\nlonger\n");
    }
}
