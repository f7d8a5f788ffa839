//! Objects that are stored as JSON: their keys sorted, their metadata dressed.

use crate::kube::document::{Node, Scalar};

use super::write::{integer, string};
use super::{Dress, Layout};

/// Writes an object with its keys sorted and its metadata dressed.
pub(super) fn dressed(root: Node<'_, '_>, dress: &Dress, layout: Layout, out: &mut Vec<u8>) {
    if root.scalar() != Scalar::Object {
        return root.write_laid_out(layout, out);
    }
    out.push(b'{');
    let (opening, inner) = (out.len(), layout.inner());
    for (key, value) in root.sorted() {
        name(&key, opening, inner, out);
        if key == "metadata" && value.scalar() == Scalar::Object {
            metadata(value, dress, inner, out)
        } else {
            value.write_laid_out(inner, out)
        }
    }
    layout.close(opening, b'}', out);
}

fn metadata(node: Node<'_, '_>, dress: &Dress, layout: Layout, out: &mut Vec<u8>) {
    const REVISION: &str = "resourceVersion";
    let inner = layout.inner();
    let mut revision = dress.resource_version;
    let mut write_revision = |opening, out: &mut Vec<u8>| {
        if let Some(revision) = revision.take() {
            name(REVISION, opening, inner, out);
            out.push(b'"');
            integer(out, revision);
            out.push(b'"');
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
        name(&key, opening, inner, out);
        value.write_laid_out(inner, out);
    }
    write_revision(opening, out);
    layout.close(opening, b'}', out);
}

fn name(name: &str, opening: usize, layout: Layout, out: &mut Vec<u8>) {
    layout.next(opening, out);
    string(name.as_bytes(), out);
    layout.colon(out);
}
