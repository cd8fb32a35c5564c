//! The cluster's side as a network of its own, which accepts no connection and makes only those that it is allowed.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use gha_slurm_test_support::{skip, skipped_without_root};

/// Begins the names of our network namespaces; the process id of the tests and a number follow.
const PREFIX: &str = "gha-slurm-e2e-";
/// Number of the next one of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with one way out. Removed when dropped.
pub(crate) struct Zone {
    name: String,
    /// This side of the way.
    pub(crate) outside: Ipv4Addr,
    /// The cluster's side.
    pub(crate) inside: Ipv4Addr,
}

impl Zone {
    /// Makes one. `None`, with the reason printed: not root, or a program is missing.
    pub(crate) fn make() -> Option<Self> {
        let purpose = "the cluster has a network of its own";
        if skipped_without_root(purpose) {
            return None;
        }
        for program in ["iptables", "nsenter"] {
            if Command::new(program).arg("--version").output().is_err() {
                skip(&format!("{purpose}: {program} is missing"));
                return None;
            }
        }
        let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else {
            skip(&format!("{purpose}: ip is missing"));
            return None;
        };
        for name in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            let owner = name.strip_prefix(PREFIX);
            let owner = owner.and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                run(&["ip", "netns", "delete", name]);
            }
        }
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{PREFIX}{id}-{number}");
        if !output(&["ip", "netns", "add", &name]).status.success() {
            skip(&format!("{purpose}: no network namespace can be made here"));
            return None;
        }
        // A network of four addresses of its own.
        let network = id.wrapping_mul(8).wrapping_add(number) % (1 << 14);
        let [.., high, low] = (network * 4).to_be_bytes();
        let (outside, inside) = (
            Ipv4Addr::new(10, 231, high, low + 1),
            Ipv4Addr::new(10, 231, high, low + 2),
        );
        let zone = Self {
            name,
            outside,
            inside,
        };
        let (ours, theirs) = (format!("gsz{id}-{number}"), "uplink");
        let words = [
            "ip", "link", "add", &ours, "type", "veth", "peer", "name", theirs, "netns", &zone.name,
        ];
        run(&words);
        run(&[
            "ip",
            "address",
            "add",
            &format!("{outside}/30"),
            "dev",
            &ours,
        ]);
        run(&["ip", "link", "set", &ours, "up"]);
        zone.run(&[
            "ip",
            "address",
            "add",
            &format!("{inside}/30"),
            "dev",
            theirs,
        ]);
        zone.run(&["ip", "link", "set", theirs, "up"]);
        zone.run(&["ip", "link", "set", "lo", "up"]);
        Some(zone)
    }

    /// From now on nothing comes in, and nothing goes out but to these ports of [`Zone::outside`].
    pub(crate) fn lock(&self, ports: &[u16]) {
        let rule = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            self.run(&words);
        };
        for chain in ["INPUT", "OUTPUT", "FORWARD"] {
            rule(&format!("iptables -P {chain} DROP"));
        }
        rule("iptables -A INPUT -i lo -j ACCEPT");
        rule("iptables -A OUTPUT -o lo -j ACCEPT");
        rule("iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT");
        for port in ports {
            let outside = self.outside;
            rule(&format!(
                "iptables -A OUTPUT -p tcp -d {outside} --dport {port} -j ACCEPT"
            ));
        }
    }

    /// Words before a command, to run it there.
    pub(crate) fn starter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name)]
    }

    /// Runs a command in it, which must succeed.
    pub(crate) fn run(&self, words: &[&str]) {
        let starter = self.starter();
        let all: Vec<&str> = starter
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied())
            .collect();
        run(&all);
    }

    /// Whether a connection from inside to this address is made.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        let [program, net] = &self.starter()[..] else {
            return false;
        };
        let (host, port) = address.rsplit_once(':').unwrap();
        let connect = format!("exec 3<>/dev/tcp/{host}/{port}");
        let words = [program, net, "timeout", "2", "bash", "-c", &connect];
        output(&words).status.success()
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        // Its end of the link goes with it, and the other end with that.
        output(&["ip", "netns", "delete", &self.name]);
    }
}

fn output(words: &[&str]) -> Output {
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}

fn run(words: &[&str]) {
    let output = output(words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {error}");
}
