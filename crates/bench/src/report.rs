//! What is shown: tables, for people as Markdown and for programs as JSON.

use std::fmt;

use serde::Serialize;

/// Everything a run has measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Where and with what it was measured.
    pub(crate) machine: Vec<String>,
    pub(crate) tables: Vec<Table>,
}

/// One table.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// What the rows do not say.
    pub(crate) notes: Vec<String>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let header = self.columns.get(column).map_or(0, |c| c.chars().count());
            cells
                .map(|cell| cell.chars().count())
                .fold(header, usize::max)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &str>| {
            for (column, (cell, width)) in cells.zip(&widths).enumerate() {
                // Words to the left, numbers to the right.
                match column {
                    0 => write!(f, "| {cell:width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")
        };
        writeln!(f, "### {}\n", self.title)?;
        line(f, &mut self.columns.iter().copied())?;
        for (column, width) in widths.iter().enumerate() {
            match column {
                0 => write!(f, "|{:-<1$}", "", width + 2)?,
                _ => write!(f, "|{:->1$}:", "", width + 1)?,
            }
        }
        writeln!(f, "|")?;
        for row in &self.rows {
            line(f, &mut row.iter().map(String::as_str))?;
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

/// The middle one by `key`: of an even number the lower.
pub(crate) fn median<T>(mut values: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    values.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = values.len().checked_sub(1)? / 2;
    values.into_iter().nth(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0], |v| *v), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0], |v| *v), Some(1.0));
        assert_eq!(median(Vec::<f64>::new(), |v| *v), None);
    }

    #[test]
    fn a_table_is_markdown() {
        let table = Table {
            title: "Things",
            columns: vec!["thing", "ms"],
            rows: vec![vec!["a".into(), "1.25".into()]],
            notes: vec!["So it is.".into()],
        };
        assert_eq!(
            table.to_string(),
            "### Things\n\n| thing |   ms |\n|-------|-----:|\n| a     | 1.25 |\n\nSo it is.\n"
        );
    }
}
