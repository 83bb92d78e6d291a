// SPDX-License-Identifier: Apache-2.0
//! Columns of text, aligned as docker aligns them: three spaces between, nothing behind the last.

use serde_json::Value;

/// Spaces between two columns.
const GAP: usize = 3;

/// Returns objects as lines below a heading: of each the fields that `columns` name, in their order.
pub(crate) fn of_objects(
    rows: &[Value],
    columns: &[&str],
    heading: impl Fn(&str) -> String,
) -> String {
    let head = columns.iter().map(|column| heading(column)).collect();
    let body = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect());
    align(&std::iter::once(head).chain(body).collect::<Vec<_>>())
}

/// Returns a field that is text.
pub(crate) fn cell(row: &Value, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

/// Returns `rows` as lines; all rows have as many cells as the first.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if index + 1 < row.len() {
                let pad = widths[index] + GAP - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', pad));
            }
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
    fn columns_stand_below_each_other() {
        let rows = [["A", "BB"], ["long", "x"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(align(&rows), "A      BB\nlong   x\n");
    }
}
