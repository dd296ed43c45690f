//! Plain tables for a terminal.

use comfy_table::{CellAlignment, Table, presets};

/// Names to the left, figures to the right; `head` is that of the figures.
pub(crate) fn text(head: &[impl AsRef<str>], rows: impl Iterator<Item = (String, Vec<String>)>) -> String {
    let mut table = Table::new();
    let titles = head.iter().map(|title| title.as_ref().to_owned());
    table.load_preset(presets::NOTHING).set_header(std::iter::once(String::new()).chain(titles));
    for (name, cells) in rows {
        table.add_row(std::iter::once(name).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
