//! `aoede set`: what a target keeps for its initiators: config string, MAC mask, reservation
//! (§4 to §6).
//!
//! One change for each call, so that a failure leaves nothing half done, and the new state is what
//! is printed. What takes something from others, or shuts out this host, wants `--force`.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use aoede_initiator::{Answer, ClientError, Disk, Error};
use aoede_wire::{
    Address, ConfigCommand, Directive, DirectiveCode, MAX_CONFIG_BYTES, MacAddr, MaskError,
    ReserveCommand,
};
use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::escape;
use crate::output::{self, Facts, OutputArgs};
use crate::reach::{self, Network, Plainly, ReachArgs};

const EXAMPLES: &str = "\
Examples:
  aoede set e1.1 -i eth0 --config-string 'web root, host7'
      Set it if it is empty. --expect OLD or --force to replace another.
  aoede set e1.1 -i eth0 --mask-add me,52:54:00:00:00:01
      From now on only this host and another may use the disk.
  aoede set e1.1 -i eth0 --mask-remove 52:54:00:00:00:01
  aoede set e1.1 -i eth0 --reserve me
      Until it is released, nobody else reads or writes.
  aoede set e1.1 -i eth0 --release

`me` stands for the MAC addresses of the interfaces after -i. Mask and reservation keep order among
friends; they are no protection, as MAC addresses can be forged. The mask of a disk that nobody is
listed in admits everyone. Targets forget masks and reservations when they restart.
It needs the capability CAP_NET_RAW.";

/// Set a disk's config string, edit who may use it, or reserve it.
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    group(ArgGroup::new("change")
        .required(true)
        .multiple(true)
        .args(["config_string", "mask_add", "mask_remove", "reserve", "release"]))
)]
pub(super) struct SetArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    /// Set the config string: up to 1024 bytes, \xNN for any byte, \\ for a backslash.
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = config_string,
        conflicts_with_all = ["mask_add", "mask_remove", "reserve", "release"]
    )]
    config_string: Option<Bytes>,

    /// Replace the config string only if it is this one now.
    #[arg(
        long,
        value_name = "OLD",
        value_parser = config_string,
        requires = "config_string",
        conflicts_with_all = ["force", "mask_add", "mask_remove", "reserve", "release"]
    )]
    expect: Option<Bytes>,

    /// Let these MAC addresses use the disk, and none that is not listed.
    #[arg(
        long,
        value_name = "MAC,...",
        value_delimiter = ',',
        conflicts_with_all = ["reserve", "release"]
    )]
    mask_add: Vec<Who>,

    /// Take these MAC addresses from the list.
    #[arg(
        long,
        value_name = "MAC,...",
        value_delimiter = ',',
        conflicts_with_all = ["reserve", "release"]
    )]
    mask_remove: Vec<Who>,

    /// Reserve the disk for these MAC addresses; holders may change the list.
    #[arg(
        long,
        value_name = "MAC,...",
        value_delimiter = ',',
        conflicts_with = "release"
    )]
    reserve: Vec<Who>,

    /// End a reservation of this host.
    #[arg(long)]
    release: bool,

    /// Replace any config string, take a reservation from others, or shut this host out.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    reach: ReachArgs<Plainly>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Bytes that were given as text with escapes. (Not a `Vec`, which clap takes for several values.)
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bytes(Vec<u8>);

fn config_string(text: &str) -> Result<Bytes, String> {
    let bytes = escape::unescape(text)?;
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(format!("{} bytes, and at most 1024 fit", bytes.len()));
    }
    Ok(Bytes(bytes))
}

/// Whom a list is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// This host: every interface that is used.
    Me,
    Mac(MacAddr),
}

impl std::str::FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "me" {
            return Ok(Self::Me);
        }
        let mac = text.parse().map(Self::Mac);
        mac.map_err(|error: aoede_wire::MacError| format!("{error}; or `me` for this host"))
    }
}

pub(super) fn run(args: &SetArgs) -> anyhow::Result<()> {
    let (network, disk) = args.reach.attach(args.address)?;
    let change = Change {
        args,
        disk: &disk,
        mine: network.macs(),
    };
    let state = if let Some(string) = &args.config_string {
        change.config_string(&string.0)
    } else if args.release || !args.reserve.is_empty() {
        change.reservation(&network)
    } else {
        change.mask(&network)
    };
    let state = state.with_context(|| args.address.to_string())?;
    args.output.print(&SetFacts {
        address: args.address.to_string(),
        state,
    })
}

/// One call of the command.
struct Change<'a> {
    args: &'a SetArgs,
    disk: &'a Disk,
    mine: Vec<MacAddr>,
}

impl Change<'_> {
    fn config_string(&self, string: &[u8]) -> anyhow::Result<State> {
        if let Some(Bytes(old)) = &self.args.expect {
            return self.replace(old, string);
        }
        let command = if self.args.force {
            ConfigCommand::ForceSet
        } else {
            ConfigCommand::Set
        };
        match self.disk.config(command, string) {
            Err(ClientError::Failed(Error::ConfigPresent { string: there })) => {
                let there = escape::escape(&there);
                bail!(
                    "the config string is \"{there}\" already; --expect '{there}' replaces it if \
                     it still is, --force whatever it is"
                )
            }
            result => Ok(State::config(&result?)),
        }
    }

    /// Two steps, as the protocol has no better: somebody may come between them.
    fn replace(&self, old: &[u8], string: &[u8]) -> anyhow::Result<State> {
        match self.disk.config(ConfigCommand::Test, old) {
            Err(ClientError::Failed(Error::NoMatch)) => {
                let there = self.disk.config(ConfigCommand::Read, &[])?;
                let (there, old) = (escape::escape(&there), escape::escape(old));
                bail!("the config string is \"{there}\", not \"{old}\"; nothing is changed")
            }
            result => result?,
        };
        let now = self.disk.config(ConfigCommand::ForceSet, string)?;
        Ok(State::config(&now))
    }

    fn mask(&self, network: &Network) -> anyhow::Result<State> {
        let directives: Vec<Directive> = [
            (DirectiveCode::Add, &self.args.mask_add),
            (DirectiveCode::Delete, &self.args.mask_remove),
        ]
        .into_iter()
        .flat_map(|(code, who)| {
            let macs = self.macs(who).into_iter();
            macs.map(move |mac| Directive { code, mac })
        })
        .collect();
        if !self.args.force {
            let Answer::Mask(now) = self.disk.mask(&[])? else {
                bail!("the target does not tell its mask list");
            };
            self.stays_in(&now, &edited(&now, &directives), network)?;
        }
        match self.disk.mask(&directives)? {
            Answer::Mask(macs) => Ok(State::Mask(reach::texts(&macs))),
            Answer::MaskRefused { error, index } => {
                let mac = directives.get(usize::from(index));
                let mac = mac.map_or_else(String::new, |directive| format!("{}: ", directive.mac));
                let why = match error {
                    MaskError::BadDirective => "the target takes no such address",
                    MaskError::Full => "the list is full",
                    _ => "the target refuses the change",
                };
                bail!("{mac}{why}; nothing is changed")
            }
            _ => bail!("the target does not tell its mask list"),
        }
    }

    fn reservation(&self, network: &Network) -> anyhow::Result<State> {
        let macs = self.macs(&self.args.reserve);
        if !self.args.force {
            let now = self.disk.reserve(ReserveCommand::Read, &[])?;
            self.stays_in(&now, &macs, network)?;
        }
        let command = if self.args.force {
            ReserveCommand::ForceSet
        } else {
            ReserveCommand::Set
        };
        let holders = match self.disk.reserve(command, &macs) {
            Err(ClientError::Failed(Error::Reserved)) => {
                let holders = self.disk.reserve(ReserveCommand::Read, &[])?;
                bail!(
                    "it is reserved by {}, not by {}; --force takes it from them",
                    reach::texts(&holders).join(", "),
                    network.names()
                )
            }
            result => result?,
        };
        // The second program to set it wins, and the first should know.
        let sorted = |macs: &[MacAddr]| macs.iter().copied().collect::<BTreeSet<_>>();
        ensure!(
            sorted(&holders) == sorted(&macs),
            "it is reserved by {} now",
            reach::texts(&holders).join(", ")
        );
        Ok(State::Reservation(reach::texts(&holders)))
    }

    /// # Errors
    /// This host may use the disk now, and may not when `new` has taken the place of the list `now`.
    fn stays_in(&self, now: &[MacAddr], new: &[MacAddr], network: &Network) -> anyhow::Result<()> {
        let out = shut_out(now, new, &self.mine);
        if let Some((name, mac)) = out.and_then(|at| network.interface_at(at)) {
            bail!(
                "after that this host could not use the disk on {name} ({mac}) any more; add \
                 `me`, or use --force"
            );
        }
        Ok(())
    }

    /// Every address once.
    fn macs(&self, who: &[Who]) -> Vec<MacAddr> {
        let mut macs = Vec::new();
        for who in who {
            let these = match who {
                Who::Me => self.mine.as_slice(),
                Who::Mac(mac) => std::slice::from_ref(mac),
            };
            for mac in these {
                if !macs.contains(mac) {
                    macs.push(*mac);
                }
            }
        }
        macs
    }
}

/// A mask list when these directives have acted.
fn edited(list: &[MacAddr], directives: &[Directive]) -> Vec<MacAddr> {
    let mut new = list.to_vec();
    for directive in directives {
        new.retain(|mac| *mac != directive.mac);
        if directive.code == DirectiveCode::Add {
            new.push(directive.mac);
        }
    }
    new
}

/// Which of our addresses, if any, one list admits and another does not. They are masks or
/// reservations: an empty one admits everybody.
fn shut_out(now: &[MacAddr], new: &[MacAddr], mine: &[MacAddr]) -> Option<usize> {
    let admits = |list: &[MacAddr], mac| list.is_empty() || list.contains(mac);
    mine.iter()
        .position(|mac| admits(now, mac) && !admits(new, mac))
}

#[derive(Serialize)]
struct SetFacts {
    address: String,
    #[serde(flatten)]
    state: State,
}

/// What was changed, as it is now.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    ConfigString(String),
    Mask(Vec<String>),
    Reservation(Vec<String>),
}

impl State {
    fn config(string: &[u8]) -> Self {
        Self::ConfigString(escape::escape(string))
    }
}

impl Facts for SetFacts {
    fn text(&self) -> String {
        let (name, value, empty) = match &self.state {
            State::ConfigString(string) => ("config string", string.clone(), "empty"),
            State::Mask(macs) => ("may use it", macs.join(", "), "everyone"),
            State::Reservation(macs) => ("reserved by", macs.join(", "), "nobody"),
        };
        let value = if value.is_empty() {
            empty.to_owned()
        } else {
            value
        };
        output::sheet([(name, value)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        set: SetArgs,
    }

    fn parse(options: &str) -> Result<SetArgs, clap::Error> {
        let args = ["x", "e1.1", "-i", "eth0"].into_iter();
        Cli::try_parse_from(args.chain(options.split_whitespace())).map(|cli| cli.set)
    }

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);

    #[test]
    fn a_call_makes_one_change() {
        for good in [
            r"--config-string a\x00b",
            "--config-string a --force",
            "--config-string a --expect b",
            "--mask-add me,02:00:00:00:00:0a --mask-remove 02:00:00:00:00:0b",
            "--reserve me",
            "--release --force",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "--force",
            "--expect a",
            "--release --expect a",
            "--config-string a --expect b --force",
            "--config-string a --release",
            "--config-string a --mask-add me",
            "--mask-add me --reserve me",
            "--reserve me --release",
            "--reserve",
            "--reserve them",
            "--mask-add 02:00:00:00:00",
            r"--config-string a\b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let args = parse(r"--config-string a\x00\\b").unwrap();
        assert_eq!(args.config_string, Some(Bytes(b"a\0\\b".to_vec())));
        let args = parse("--mask-add me,02:00:00:00:00:0a").unwrap();
        assert_eq!(args.mask_add, [Who::Me, Who::Mac(A)]);
    }

    #[test]
    fn a_config_string_has_at_most_1024_bytes() {
        assert!(config_string(&"x".repeat(1024)).is_ok());
        let error = config_string(&"x".repeat(1025)).unwrap_err();
        assert_eq!(error, "1025 bytes, and at most 1024 fit");
    }

    #[test]
    fn who_shuts_itself_out_is_noticed() {
        let add = |mac| Directive {
            code: DirectiveCode::Add,
            mac,
        };
        let delete = |mac| Directive {
            code: DirectiveCode::Delete,
            mac,
        };
        // An empty list admits everyone; a list of others does not.
        let after =
            |list: &[MacAddr], edit: &[Directive], mine| shut_out(list, &edited(list, edit), mine);
        assert_eq!(after(&[], &[add(B)], &[A]), Some(0));
        assert_eq!(after(&[], &[add(B), add(A)], &[A]), None);
        assert_eq!(after(&[A, B], &[delete(A)], &[A]), Some(0));
        assert_eq!(after(&[A], &[delete(A)], &[A]), None);
        assert_eq!(after(&[], &[add(A)], &[A, B]), Some(1));
        // Who is out already loses nothing.
        assert_eq!(after(&[A], &[add(A)], &[A, B]), None);
        // In the order of the directives.
        assert_eq!(after(&[A, B], &[add(A), delete(A)], &[A]), Some(0));
        assert_eq!(after(&[A, B], &[delete(A), add(A)], &[A]), None);
        // A reservation is replaced as a whole, and released by an empty one.
        assert_eq!(shut_out(&[], &[B], &[A]), Some(0));
        assert_eq!(shut_out(&[A, B], &[B], &[A]), Some(0));
        assert_eq!(shut_out(&[B], &[B], &[A]), None);
        assert_eq!(shut_out(&[A], &[], &[A]), None);
    }

    #[test]
    fn the_new_state_is_shown() {
        let facts = |state| SetFacts {
            address: "e1.1".to_owned(),
            state,
        };
        let set = facts(State::config(b"a\n"));
        assert_eq!(set.text(), "config string  a\\x0a\n");
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            r#"{"address":"e1.1","config_string":"a\\x0a"}"#
        );
        let released = facts(State::Reservation(Vec::new()));
        assert_eq!(released.text(), "reserved by  nobody\n");
        assert_eq!(
            serde_json::to_string(&released).unwrap(),
            r#"{"address":"e1.1","reservation":[]}"#
        );
        let masked = facts(State::Mask(reach::texts(&[A, B])));
        assert_eq!(
            masked.text(),
            "may use it  02:00:00:00:00:0a, 02:00:00:00:00:0b\n"
        );
    }
}
