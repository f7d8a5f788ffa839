//! How JSON is laid out: on one line, or on as many lines as kubectl makes of it.

/// Blanks for each level.
const INDENT: usize = 4;

/// Blanks to take some of.
const BLANKS: [u8; 64] = [b' '; 64];

/// How a value is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Without blanks.
    #[default]
    OneLine,
    /// On as many lines as it takes, the last of which is indented by so many blanks, and the first one not at all.
    Lines(usize),
}

impl Layout {
    /// That of what an object or list holds.
    pub(crate) fn inner(self) -> Self {
        match self {
            Self::OneLine => Self::OneLine,
            Self::Lines(indent) => Self::Lines(indent.saturating_add(INDENT)),
        }
    }

    /// That of the object or list which holds what has this one.
    pub(crate) fn outer(self) -> Self {
        match self {
            Self::OneLine => Self::OneLine,
            Self::Lines(indent) => Self::Lines(indent.saturating_sub(INDENT)),
        }
    }

    /// Begins a line.
    #[inline]
    pub(crate) fn line(self, out: &mut Vec<u8>) {
        let Self::Lines(indent) = self else { return };
        out.push(b'\n');
        match BLANKS.get(..indent) {
            Some(blanks) => out.extend_from_slice(blanks),
            None => out.resize(out.len() + indent, b' '),
        }
    }

    /// Goes on to the next member or item of what `opening` is the beginning of; this is the layout [within](Self::inner).
    #[inline]
    pub(crate) fn next(self, opening: usize, out: &mut Vec<u8>) {
        if out.len() > opening {
            out.push(b',');
        }
        self.line(out);
    }

    /// Ends what stands between a key and its value.
    #[inline]
    pub(crate) fn colon(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self == Self::OneLine { b":" } else { b": " });
    }

    /// Ends an object or list that began at `opening`; this is its own layout.
    #[inline]
    pub(crate) fn close(self, opening: usize, bracket: u8, out: &mut Vec<u8>) {
        if out.len() > opening {
            self.line(out);
        }
        out.push(bracket);
    }
}
