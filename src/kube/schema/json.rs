//! Objects that are stored as JSON: their keys sorted, their metadata dressed.

use crate::kube::document::{Node, Scalar};

use super::Dress;
use super::write::{number, string};

/// Writes an object with its keys sorted and its metadata dressed.
pub(super) fn dressed(root: Node<'_, '_>, dress: &Dress, out: &mut Vec<u8>) {
    if root.scalar() != Scalar::Object {
        return root.write(out);
    }
    out.push(b'{');
    let opening = out.len();
    for (key, value) in root.sorted() {
        name(&key, opening, out);
        if key == "metadata" && value.scalar() == Scalar::Object {
            metadata(value, dress, out)
        } else {
            value.write(out)
        }
    }
    out.push(b'}');
}

fn metadata(node: Node<'_, '_>, dress: &Dress, out: &mut Vec<u8>) {
    const REVISION: &str = "resourceVersion";
    let mut revision = dress.resource_version;
    let mut write_revision = |opening, out: &mut Vec<u8>| {
        if let Some(revision) = revision.take() {
            name(REVISION, opening, out);
            number(out, format_args!("\"{revision}\""));
        }
    };
    out.push(b'{');
    let opening = out.len();
    for (key, value) in node.sorted() {
        if key == "managedFields" && !dress.managed_fields {
            continue;
        }
        if &*key >= REVISION {
            write_revision(opening, out);
        }
        if key == REVISION && dress.resource_version.is_some() {
            continue;
        }
        name(&key, opening, out);
        value.write(out);
    }
    write_revision(opening, out);
    out.push(b'}');
}

fn name(name: &str, opening: usize, out: &mut Vec<u8>) {
    if out.len() > opening {
        out.push(b',');
    }
    string(name.as_bytes(), out);
    out.push(b':');
}
