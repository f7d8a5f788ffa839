//! Objects as kubectl's tables, one for each resource.
//!
//! Rows come as they are found, so a table of any length needs little memory: widths are those of the rows that come together.

use std::io::{self, Write};

use crate::recover::Document;
use crate::recover::get::{Content, Item};

use super::columns::{Column, Object, columns};
use super::objects::name;
use super::text::harmless;

/// Blanks between columns.
const GAP: usize = 3;

/// Which columns there are beside a resource's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Also the wide ones.
    pub wide: bool,
    /// The namespace.
    pub namespaces: bool,
    /// The revision, where one object may come several times.
    pub revisions: bool,
    /// Names with their resource, where there are several.
    pub full_names: bool,
    /// Now, in seconds since 1970.
    pub now: i64,
}

/// Writes tables as objects come.
pub struct Tables<'t> {
    out: &'t mut dyn Write,
    shape: Shape,
    /// The resource of the table that is being written.
    current: Option<(String, String)>,
}

impl<'t> Tables<'t> {
    /// Begins.
    pub fn new(out: &'t mut dyn Write, shape: Shape) -> Self {
        Self { out, shape, current: None }
    }

    /// Writes some more.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn write(&mut self, items: &[Item]) -> io::Result<()> {
        for items in items.chunk_by(|one, next| one.resource == next.resource) {
            let Some(first) = items.first() else { continue };
            let resource = (first.resource.group.clone(), first.resource.resource.clone());
            let columns = columns(&resource.0, &resource.1);
            let columns: Vec<&Column> = columns.iter().filter(|column| self.shape.wide || !column.wide).collect();
            let mut rows: Vec<Vec<String>> = Vec::with_capacity(items.len() + 1);
            let begins = self.current.as_ref() != Some(&resource);
            // What lies in no namespace has no such column, as in kubectl.
            let shape = Shape { namespaces: self.shape.namespaces && !first.namespace.is_empty(), ..self.shape };
            rows.push(head(shape, &columns));
            rows.extend(items.iter().map(|item| row(shape, item, &columns)));
            if begins && self.current.is_some() {
                self.out.write_all(b"\n")?;
            }
            self.current = Some(resource);
            self.aligned(&rows, begins)?;
        }
        Ok(())
    }

    /// Writes rows with their columns one below the other; the heading only if the table begins.
    fn aligned(&mut self, rows: &[Vec<String>], begins: bool) -> io::Result<()> {
        let mut widths: Vec<usize> = Vec::new();
        for row in rows {
            // What stands in place of an object takes more than one column, and no width.
            let cells =
                if row.len() < rows.first().map_or(0, Vec::len) { row.len().saturating_sub(1) } else { row.len() };
            for (index, cell) in row.iter().take(cells).enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(index) {
                    Some(known) => *known = width.max(*known),
                    None => widths.push(width),
                }
            }
        }
        for row in rows.iter().skip(usize::from(!begins)) {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                line.push_str(cell);
                if index + 1 < row.len() {
                    let width = widths.get(index).copied().unwrap_or(0) + GAP;
                    line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            line.truncate(line.trim_end().len());
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }
}

fn head(shape: Shape, columns: &[&Column]) -> Vec<String> {
    let fixed = [(shape.namespaces, "NAMESPACE"), (true, "NAME"), (shape.revisions, "REVISION")];
    let fixed = fixed.into_iter().filter(|(there, _)| *there).map(|(_, head)| head);
    fixed.chain(columns.iter().map(|column| column.head)).map(str::to_owned).collect()
}

fn row(shape: Shape, item: &Item, columns: &[&Column]) -> Vec<String> {
    let mut row = Vec::new();
    if shape.namespaces {
        row.push(harmless(&item.namespace).into_owned());
    }
    row.push(if shape.full_names { name(item) } else { harmless(&item.name).into_owned() });
    if shape.revisions {
        row.push(item.mod_revision.to_string());
    }
    match &item.content {
        Content::Object { json, .. } => match Document::parse(json) {
            Ok(document) => {
                let object = Object { root: document.root(), now: shape.now };
                row.extend(columns.iter().map(|column| harmless(&(column.cell)(&object)).into_owned()));
            }
            Err(error) => row.push(format!("<no JSON: {error}>")),
        },
        Content::Closed { sealed, .. } if sealed.provider.is_empty() => {
            row.push("<unrecognised encryption>".to_owned())
        }
        Content::Closed { sealed, .. } => {
            let name = harmless(&sealed.name).into_owned();
            row.push(format!("<encrypted: {} {}, key {name}>", sealed.provider, sealed.version));
        }
        Content::Undecodable { error, .. } => row.push(format!("<no object: {error}>")),
    }
    row
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::recover::open::SealedBy;

    fn item(resource: &str, kind: &'static str, name: &str, json: Option<&str>) -> Item {
        let content = match json {
            Some(json) => Content::Object {
                json: Zeroizing::new(json.as_bytes().to_vec()),
                payload: Zeroizing::default(),
                misplaced: false,
            },
            None => Content::Closed {
                sealed: SealedBy { provider: "aescbc", version: "v1", name: "key1".into() },
                reason: String::new(),
            },
        };
        Item {
            key: Vec::new(),
            resource: crate::recover::GroupResource::new("", resource),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            kind: Some(kind.into()),
            mod_revision: 12,
            content,
        }
    }

    #[test]
    fn each_resource_has_a_table_of_its_own_and_what_is_closed_is_in_it() {
        let secret = r#"{"metadata":{"creationTimestamp":"1970-01-01T00:00:00Z"},"type":"Opaque","data":{}}"#;
        let items = [
            item("configmaps", "ConfigMap", "c", Some("{}")),
            item("secrets", "Secret", "a-long-name", Some(secret)),
            item("secrets", "Secret", "b", None),
        ];
        let mut out = Vec::new();
        let shape = Shape { namespaces: true, full_names: true, now: 3600, ..Shape::default() };
        Tables::new(&mut out, shape).write(&items).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAMESPACE   NAME          DATA   AGE\n\
             default     configmap/c   0      <unknown>\n\
             \n\
             NAMESPACE   NAME                 TYPE     DATA   AGE\n\
             default     secret/a-long-name   Opaque   0      60m\n\
             default     secret/b             <encrypted: aescbc v1, key key1>\n"
        );
    }
}
