//! Label and field selectors as kubectl takes them: `app=web,tier!=db,env in (a,b),!gone`; `metadata.name=x`.
//!
//! Upstream: `pkg/labels/selector.go` and `pkg/fields/selector.go` of `kubernetes/apimachinery`.

use std::borrow::Cow;

/// Why a selector cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing that a selector may hold.
    #[error("{0:?} is no selector; write key=value, key!=value, key, !key, key in (a,b) or key notin (a,b)")]
    Syntax(String),
    /// A field that objects are not selected by here.
    #[error("{0:?} is no field that objects can be selected by; metadata.name and metadata.namespace are")]
    Field(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
}

/// Demands on labels, all of which must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<(String, Demand)>);

impl Labels {
    /// Reads a selector.
    ///
    /// # Errors
    ///
    /// [`SelectorError::Syntax`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parts(text).into_iter().map(demand).collect::<Result<_, _>>().map(Self)
    }

    /// Adds the demands of another selector.
    pub fn and(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether anything is demanded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object has such labels; `label` finds one.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<Cow<'l, str>>) -> bool {
        self.0.iter().all(|(key, demand)| {
            let value = label(key);
            let among = |values: &[String]| value.as_ref().is_some_and(|value| values.iter().any(|one| one == value));
            match demand {
                Demand::Exists => value.is_some(),
                Demand::Missing => value.is_none(),
                Demand::In(values) => among(values),
                // What has no such label at all is not in the list, either.
                Demand::NotIn(values) => !among(values),
            }
        })
    }
}

/// Divides at the commas that stand outside of parentheses.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let is_divider = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(is_divider).map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn demand(part: &str) -> Result<(String, Demand), SelectorError> {
    let syntax = || SelectorError::Syntax(part.to_owned());
    let (key, demand) = if let Some((key, value)) = part.split_once("!=") {
        (key, Demand::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value);
        (key, Demand::In(vec![value.trim().to_owned()]))
    } else if let Some((head, list)) = part.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(syntax)?;
        let values: Vec<String> = list.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key, Demand::In(values)),
            Some((key, "notin")) => (key, Demand::NotIn(values)),
            _ => return Err(syntax()),
        }
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Demand::Missing)
    } else {
        (part, Demand::Exists)
    };
    let key = key.trim();
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let values_are_plain = match &demand {
        Demand::In(values) | Demand::NotIn(values) => values.iter().all(|value| value.chars().all(is_key)),
        Demand::Exists | Demand::Missing => true,
    };
    if key.is_empty() || !key.chars().all(is_key) || !values_are_plain {
        return Err(syntax());
    }
    Ok((key.to_owned(), demand))
}

/// Demands on name and namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    is_namespace: bool,
    equal: bool,
    value: String,
}

impl Fields {
    /// Reads a selector.
    ///
    /// # Errors
    ///
    /// [`SelectorError`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut fields = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value, equal) = if let Some((key, value)) = part.split_once("!=") {
                (key, value, false)
            } else {
                let (key, value) = part.split_once('=').ok_or_else(|| SelectorError::Syntax(part.to_owned()))?;
                (key, value.strip_prefix('=').unwrap_or(value), true)
            };
            let is_namespace = match key.trim() {
                "metadata.name" => false,
                "metadata.namespace" => true,
                other => return Err(SelectorError::Field(other.to_owned())),
            };
            fields.push(Field { is_namespace, equal, value: value.trim().to_owned() });
        }
        Ok(Self(fields))
    }

    /// Whether an object has such a name and namespace; one of the cluster's scope has the empty namespace.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        self.0.iter().all(|field| {
            let value = if field.is_namespace { namespace } else { name };
            (value == field.value) == field.equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &'static str)], expected: bool) {
        let parsed = Labels::parse(selector).unwrap();
        let find = |key: &str| labels.iter().find(|(known, _)| *known == key).map(|(_, value)| Cow::Borrowed(*value));
        assert_eq!(parsed.matches(find), expected, "{selector}");
    }

    #[test]
    fn labels_are_selected_as_kubectl_does_it() {
        let labels = [("app", "web"), ("app.kubernetes.io/name", "x"), ("empty", "")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("none!=a", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!app", false),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("none notin (a)", true),
            ("app.kubernetes.io/name=x,app in (web),!none", true),
            ("empty=", true),
            ("app=", false),
        ] {
            check(selector, &labels, expected);
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["=a", "a in b", "a in (b", "a within (b)", "a b", "a=b=c", "a>1", "!"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
        assert_eq!(Fields::parse("spec.nodeName=a"), Err(SelectorError::Field("spec.nodeName".to_owned())));
        assert!(Fields::parse("metadata.name").is_err());
    }

    #[test]
    fn fields_are_name_and_namespace() {
        let fields = Fields::parse("metadata.name=a,metadata.namespace!=kube-system").unwrap();
        assert!(fields.matches("default", "a"));
        assert!(!fields.matches("kube-system", "a"));
        assert!(!fields.matches("default", "b"));
    }
}
