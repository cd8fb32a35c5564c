//! A launch's resources as Slurm takes them: one list of sbatch's options and slurmrestd's fields.

use std::fmt::Display;

use gha_slurm_domain::ResourceRequest;
use serde_json::{Value, json};

/// One resource that is asked for.
pub(crate) struct SlurmOption {
    /// sbatch(1)'s argument.
    pub(crate) argument: String,
    /// slurmrestd's field.
    pub(crate) field: Field,
}

/// A field of slurmrestd's body of a submission, by name.
pub(crate) enum Field {
    /// The same in all versions.
    Same(&'static str, Value),
    /// A number that has a wrapping of its own from v0.0.40 on.
    Number(&'static str, u64),
    /// Another one from v0.0.40 on.
    Changed {
        before_v40: (&'static str, Value),
        from_v40: (&'static str, Value),
    },
}

/// What is asked for. Taken apart without `..`: a new resource does not compile before it has a line here.
pub(crate) fn options(resources: &ResourceRequest) -> impl Iterator<Item = SlurmOption> {
    let ResourceRequest {
        cpus,
        memory_mib,
        time_minutes,
        gres,
        partition,
        account,
        qos,
        constraint,
        reservation,
        nodes,
        exclusive,
        // The job script's affair.
        container: _,
    } = resources;
    let exclusive = exclusive.then(|| SlurmOption {
        argument: "--exclusive".to_owned(),
        field: Field::Changed {
            // Its OpenAPI document says "true", which it refuses.
            before_v40: ("exclusive", json!("exclusive")),
            from_v40: ("shared", json!(["none"])),
        },
    });
    [
        cpus.map(|n| option("cpus-per-task", n, Field::Same("cpus_per_task", json!(n)))),
        memory_mib.map(|n| option("mem", format!("{n}M"), Field::Number("memory_per_node", n))),
        time_minutes.map(|n| option("time", n, Field::Number("time_limit", n.into()))),
        gres.as_deref().map(|list| {
            let before_v40 = ("gres", json!(list));
            let from_v40 = ("tres_per_node", json!(as_tres(list)));
            option(
                "gres",
                list,
                Field::Changed {
                    before_v40,
                    from_v40,
                },
            )
        }),
        text("partition", "partition", partition.as_deref()),
        text("account", "account", account.as_deref()),
        text("qos", "qos", qos.as_deref()),
        text("constraint", "constraints", constraint.as_deref()),
        text("reservation", "reservation", reservation.as_deref()),
        nodes.map(|n| option("nodes", n, Field::Same("nodes", json!(n.to_string())))),
        exclusive,
    ]
    .into_iter()
    .flatten()
}

fn option(name: &str, value: impl Display, field: Field) -> SlurmOption {
    SlurmOption {
        argument: format!("--{name}={value}"),
        field,
    }
}

fn text(name: &str, field: &'static str, value: Option<&str>) -> Option<SlurmOption> {
    Some(option(name, value?, Field::Same(field, json!(value))))
}

/// `gpu:2,shard:1` as `gres/gpu:2,gres/shard:1`, as sbatch does.
fn as_tres(gres: &str) -> String {
    let each: Vec<String> = gres.split(',').map(|one| format!("gres/{one}")).collect();
    each.join(",")
}
