//! What a task prints.

/// A part of a task's answer.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Whoever asked may not listen any more.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Why a task has no answer.
pub(crate) fn complain(text: &str) {
    #[expect(clippy::print_stderr, reason = "the answer of a task")]
    {
        eprintln!("gha-slurm-munge: {text}");
    }
}
