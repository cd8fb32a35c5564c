//! How Slurm writes the names in a request. Labels of workflow jobs come in lower case, and Slurm compares partitions, types of GRES and
//! features as they are written.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use gha_slurm_domain::ResourceRequest;
use tokio::sync::Mutex;

use crate::backend::SlurmUnavailable;

/// Names are asked for again after this time.
const GOOD_FOR: Duration = Duration::from_secs(300);
/// The same, when a request has a name that is not among them: an administrator may just have added it.
const GOOD_FOR_OTHERS: Duration = Duration::from_secs(10);
/// What stands between the features of a constraint (sbatch(1), `--constraint`).
const OPERATORS: [char; 8] = ['&', '|', '[', ']', '(', ')', '*', ','];

/// Spellings by their lower case.
#[derive(Debug, Default)]
struct Spellings(HashMap<String, BTreeSet<String>>);

impl Spellings {
    fn add(&mut self, name: &str) {
        if !matches!(name, "" | "(null)" | "n/a") {
            let spellings = self.0.entry(name.to_ascii_lowercase()).or_default();
            spellings.insert(name.to_owned());
        }
    }

    /// The name as it is written, if something has it; otherwise the first that differs only by case.
    fn get(&self, name: &str) -> Option<&str> {
        let spellings = self.0.get(&name.to_ascii_lowercase())?;
        let found = spellings.get(name).or_else(|| spellings.first())?;
        Some(found)
    }
}

/// Names that Slurm knows.
#[derive(Debug, Default)]
pub(crate) struct Names {
    partitions: Spellings,
    /// Each as `gpu`, and as `gpu:A100` where it has a type.
    gres: Spellings,
    features: Spellings,
}

impl Names {
    pub(crate) fn add_partition(&mut self, name: &str) {
        self.partitions.add(name);
    }

    pub(crate) fn add_feature(&mut self, name: &str) {
        self.features.add(name);
    }

    /// Adds the GRES of a node, as slurm.conf(5) has them: `gpu:A100:no_consume:2(S:0,1),shard:8`.
    pub(crate) fn add_gres(&mut self, list: &str) {
        let mut is_inside = false;
        let ends = |c: char| {
            is_inside = (is_inside || c == '(') && c != ')';
            c == ',' && !is_inside
        };
        for one in list.split(ends) {
            let one = one.split('(').next().unwrap_or_default();
            let mut parts = one.split(':');
            let name = parts.next().unwrap_or_default();
            self.gres.add(name);
            let parts: Vec<&str> = parts.filter(|part| *part != "no_consume").collect();
            if let [kind, _count] = parts.as_slice() {
                self.gres.add(&format!("{name}:{kind}"));
            }
        }
    }

    /// The request in Slurm's spelling, and whether each of its names is known. Others stay as they are: Slurm refuses them in its own
    /// words, or does not show them here (`PrivateData`).
    fn spell(&self, asked: &ResourceRequest) -> (ResourceRequest, bool) {
        let mut all_known = true;
        let mut spell = |names: &Spellings, name: &str| {
            let found = names.get(name);
            all_known &= found.is_some();
            found.unwrap_or(name).to_owned()
        };
        let partition = asked.partition.as_deref().map(|list| {
            let names = list.split(',').map(|name| spell(&self.partitions, name));
            names.collect::<Vec<_>>().join(",")
        });
        let constraint = asked.constraint.as_deref().map(|text| {
            let words = text.split_inclusive(OPERATORS).map(|word| {
                let name = word.trim_end_matches(OPERATORS);
                let operator = word.get(name.len()..).unwrap_or_default();
                // The number of nodes after a `*`.
                if name.bytes().all(|b| b.is_ascii_digit()) {
                    return word.to_owned();
                }
                spell(&self.features, name) + operator
            });
            words.collect()
        });
        let gres = asked.gres.as_deref().map(|list| {
            let each = list.split(',').map(|one| {
                let name = ["gres/", "gres:"]
                    .iter()
                    .find_map(|prefix| one.strip_prefix(prefix));
                let name = name.unwrap_or(one);
                let prefix = one.get(..one.len() - name.len()).unwrap_or_default();
                // The name, and its type unless a count follows at once.
                let is_separator = |c: char| matches!(c, ':' | '=');
                let mut parts = name.splitn(3, is_separator);
                let (name, kind) = (parts.next().unwrap_or_default(), parts.next());
                let kind = kind.filter(|kind| {
                    !kind.starts_with(|c: char| c.is_ascii_digit())
                        || self.gres.get(&format!("{name}:{kind}")).is_some()
                });
                let asked = match kind {
                    Some(kind) => format!("{name}:{kind}"),
                    None => name.to_owned(),
                };
                let rest = one.get(prefix.len() + asked.len()..).unwrap_or_default();
                format!("{prefix}{}{rest}", spell(&self.gres, &asked))
            });
            each.collect::<Vec<_>>().join(",")
        });
        let spelt = ResourceRequest {
            partition,
            gres,
            constraint,
            ..asked.clone()
        };
        (spelt, all_known)
    }
}

/// The names that Slurm was asked for last. One caller asks, the others wait.
#[derive(Default)]
pub(crate) struct Spelling(Mutex<Option<(Names, Instant)>>);

impl Spelling {
    /// The request in Slurm's spelling. `ask` is called if it has names, and those that are known are too old.
    pub(crate) async fn of(
        &self,
        asked: &ResourceRequest,
        ask: impl Future<Output = Result<Names, SlurmUnavailable>> + Send,
    ) -> Result<ResourceRequest, SlurmUnavailable> {
        if asked.partition.is_none() && asked.gres.is_none() && asked.constraint.is_none() {
            return Ok(asked.clone());
        }
        let mut known = self.0.lock().await;
        if let Some((names, at)) = &*known {
            let (spelt, all_known) = names.spell(asked);
            let good_for = if all_known { GOOD_FOR } else { GOOD_FOR_OTHERS };
            if at.elapsed() < good_for {
                return Ok(spelt);
            }
        }
        let names = ask.await?;
        let (spelt, _) = names.spell(asked);
        *known = Some((names, Instant::now()));
        Ok(spelt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_slurm_has_them() {
        let mut names = Names::default();
        for partition in ["GPU", "main", "Main"] {
            names.add_partition(partition);
        }
        names.add_gres("gpu:A100:no_consume:4(S:0,1),gpu:3090:2,Shard:8");
        names.add_gres("(null)");
        for feature in ["Haswell", "IB.fdr", "(null)"] {
            names.add_feature(feature);
        }
        let spell = |partition: &str, gres: &str, constraint: &str| {
            let text = |text: &str| Some(text.to_owned());
            let (spelt, all_known) = names.spell(&ResourceRequest {
                partition: text(partition),
                gres: text(gres),
                constraint: text(constraint),
                ..ResourceRequest::default()
            });
            let [partition, gres, constraint] =
                [spelt.partition, spelt.gres, spelt.constraint].map(Option::unwrap);
            (partition, gres, constraint, all_known)
        };
        let of = |partition: &str, gres: &str, constraint: &str, all_known| {
            let [partition, gres, constraint] = [partition, gres, constraint].map(str::to_owned);
            (partition, gres, constraint, all_known)
        };
        assert_eq!(
            spell("gpu", "gpu:a100:2", "haswell"),
            of("GPU", "gpu:A100:2", "Haswell", true)
        );
        assert_eq!(
            spell(
                "main,gpu,Main",
                "gres/gpu:a100=2,shard:1",
                "[haswell|ib.fdr*2]&HASWELL"
            ),
            of(
                "main,GPU,Main",
                "gres/gpu:A100=2,Shard:1",
                "[Haswell|IB.fdr*2]&Haswell",
                true
            )
        );
        assert_eq!(
            spell("gpu", "gpu:3090", "haswell"),
            of("GPU", "gpu:3090", "Haswell", true)
        );
        assert_eq!(
            spell("gpu", "gpu:2", "haswell"),
            of("GPU", "gpu:2", "Haswell", true)
        );
        for (partition, gres, constraint) in [
            ("else", "gpu:2", "Haswell"),
            ("GPU", "gpu:h100:2", "Haswell"),
            ("GPU", "gpu:2", "else&Haswell"),
        ] {
            let expected = of(partition, gres, constraint, false);
            assert_eq!(spell(partition, gres, constraint), expected);
        }
    }

    #[tokio::test]
    async fn slurm_is_asked_for_names_when_a_request_has_some_and_not_each_time() {
        let spelling = Spelling::default();
        let asked = std::sync::atomic::AtomicU32::new(0);
        let ask = || async {
            asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut names = Names::default();
            names.add_partition("Main");
            Ok(names)
        };
        let of = |partition: Option<&str>| ResourceRequest {
            partition: partition.map(str::to_owned),
            ..ResourceRequest::default()
        };
        for (partition, expected) in [
            (None, None),
            (Some("main"), Some("Main")),
            (Some("MAIN"), Some("Main")),
            (Some("none"), Some("none")),
        ] {
            let spelt = spelling.of(&of(partition), ask()).await.unwrap();
            assert_eq!(spelt, of(expected));
        }
        assert_eq!(asked.into_inner(), 1);
        let away = Spelling::default();
        let fails = async { Err(SlurmUnavailable("away".into())) };
        assert!(away.of(&of(Some("main")), fails).await.is_err());
    }
}
