//! What can be asked of a session, and what comes of it.

use aoede_wire::{
    Command, Config, ConfigCommand, Directive, MAX_CONFIG_BYTES, MacAddr, Mask, MaskCommand,
    MaskError, Reserve, ReserveCommand,
};

use crate::{Error, Identity, Refusal};

/// Bytes behind the common header that every frame holds at an MTU of 1500.
const MAX_ARGUMENT_BYTES: usize = 1490;

/// Something to be done. `B` is a buffer of the caller, which comes back with the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<B> {
    /// Fills the buffer, a whole number of sectors, from this sector on.
    Read {
        /// First sector.
        lba: u64,
        /// Where the data goes.
        buffer: B,
    },
    /// Writes the buffer, a whole number of sectors, from this sector on.
    Write {
        /// First sector.
        lba: u64,
        /// The data.
        buffer: B,
    },
    /// Makes every write stable that was finished when this was asked, and those asked before.
    Flush,
    /// Tells the disk that the content of these sectors is no longer wanted.
    Trim {
        /// First sector.
        lba: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// Reads IDENTIFY DEVICE anew.
    Identify,
    /// A Query/Config command (§4). A string that is over 1024 bytes is refused.
    Config {
        /// What to do.
        command: ConfigCommand,
        /// The string it is about.
        string: Vec<u8>,
    },
    /// Reads or edits the list of MACs that may talk to the target (§5). Without directives the
    /// list is read.
    Mask {
        /// What to change; all of it or nothing.
        directives: Vec<Directive>,
    },
    /// Reads or replaces the list of MACs that hold the target (§6).
    Reserve {
        /// What to do. An empty list releases; the 2014 AoEde releases by force only.
        command: ReserveCommand,
        /// The new list.
        macs: Vec<MacAddr>,
    },
}

/// What a request that succeeded has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It is done.
    Done,
    /// What the disk says of itself.
    Identity(Box<Identity>),
    /// The target's config string.
    Config(Vec<u8>),
    /// Who may talk to the target; empty for everyone.
    Mask(Vec<MacAddr>),
    /// An edit of the list failed, and changed nothing at a target of this project.
    MaskRefused {
        /// Why.
        error: MaskError,
        /// Which directive failed, from 0.
        index: u8,
    },
    /// Who holds the target; empty for nobody.
    Reservation(Vec<MacAddr>),
}

/// A request that a session has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// A request that has ended.
#[derive(Debug)]
pub struct Done<B> {
    /// Which.
    pub id: RequestId,
    /// The buffer it brought; filled if it was a read and succeeded.
    pub buffer: Option<B>,
    /// How it ended.
    pub result: Result<Answer, Error>,
}

/// A control command whose argument is encoded already.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) command: Command,
    /// The bytes behind the common header.
    pub(crate) argument: Vec<u8>,
    /// Whether silence is an answer.
    pub(crate) may_be_silent: bool,
}

impl Control {
    pub(crate) fn config(command: ConfigCommand, string: &[u8]) -> Result<Self, Refusal> {
        let len = u16::try_from(string.len()).unwrap_or(u16::MAX);
        if usize::from(len) > MAX_CONFIG_BYTES {
            return Err(Refusal::TooLong);
        }
        let mut argument = vec![0, 0, 0, 0, 0, u8::from(command)];
        argument.extend_from_slice(&len.to_be_bytes());
        argument.extend_from_slice(string);
        Ok(Self {
            command: Command::Config,
            argument,
            may_be_silent: matches!(command, ConfigCommand::Test | ConfigCommand::Prefix),
        })
    }

    pub(crate) fn mask(directives: &[Directive]) -> Result<Self, Refusal> {
        let command = match directives {
            [] => MaskCommand::Read,
            _ => MaskCommand::Edit,
        };
        let count = u8::try_from(directives.len()).map_err(|_| Refusal::TooLong)?;
        let mut argument = vec![0, command.into(), 0, count];
        for directive in directives {
            argument.extend_from_slice(&directive.to_bytes());
        }
        Self::checked(Command::Mask, argument)
    }

    pub(crate) fn reserve(command: ReserveCommand, macs: &[MacAddr]) -> Result<Self, Refusal> {
        let count = u8::try_from(macs.len()).map_err(|_| Refusal::TooLong)?;
        let mut argument = vec![command.into(), count];
        for mac in macs {
            argument.extend_from_slice(&mac.0);
        }
        Self::checked(Command::Reserve, argument)
    }

    fn checked(command: Command, argument: Vec<u8>) -> Result<Self, Refusal> {
        if argument.len() > MAX_ARGUMENT_BYTES {
            return Err(Refusal::TooLong);
        }
        Ok(Self {
            command,
            argument,
            may_be_silent: false,
        })
    }

    /// Reads the argument of a response without an AoE error. `None` if it is none to this command.
    pub(crate) fn answer(&self, argument: &[u8]) -> Option<Answer> {
        match self.command {
            Command::Config => {
                let config = Config::decode(argument).ok()?;
                let asked = self.argument.get(5).copied().map(ConfigCommand::from)?;
                (config.command == asked).then_some(())?;
                Some(Answer::Config(config.string().ok()?.to_vec()))
            }
            Command::Mask => {
                let mask = Mask::decode(argument).ok()?;
                match mask.error {
                    MaskError::None => {
                        let entries = mask.directives().ok()?;
                        Some(Answer::Mask(entries.map(|entry| entry.mac).collect()))
                    }
                    error => Some(Answer::MaskRefused {
                        error,
                        index: mask.count,
                    }),
                }
            }
            Command::Reserve => {
                let reserve = Reserve::decode(argument).ok()?;
                Some(Answer::Reservation(reserve.macs().ok()?.collect()))
            }
            Command::Ata | Command::Extension | Command::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_wire::DirectiveCode;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);

    #[test]
    fn arguments_are_those_of_the_golden_frames() {
        // §16: config-force-set, reserve-set; §5.
        let config = Control::config(ConfigCommand::ForceSet, b"ab").unwrap();
        assert_eq!(config.argument, [0, 0, 0, 0, 0, 4, 0, 2, b'a', b'b']);
        assert!(!config.may_be_silent);
        let reserve = Control::reserve(ReserveCommand::Set, &[MAC]).unwrap();
        assert_eq!(reserve.argument, [1, 1, 2, 0, 0, 0, 0, 0x0B]);
        let code = DirectiveCode::Delete;
        let mask = Control::mask(&[Directive { code, mac: MAC }]).unwrap();
        assert_eq!(mask.argument, [0, 1, 0, 1, 0, 2, 2, 0, 0, 0, 0, 0x0B]);
        assert_eq!(Control::mask(&[]).unwrap().argument, [0; 4]);
    }

    #[test]
    fn what_no_frame_holds_is_refused() {
        let long = [7; 1025];
        let config = |len: usize| Control::config(ConfigCommand::Set, &long[..len]);
        assert!(config(1024).is_ok());
        assert_eq!(config(1025).unwrap_err(), Refusal::TooLong);
        let macs = [MAC; 249];
        assert!(Control::reserve(ReserveCommand::Set, &macs[..248]).is_ok());
        assert!(Control::reserve(ReserveCommand::Set, &macs).is_err());
        let directive = Directive {
            code: DirectiveCode::Add,
            mac: MAC,
        };
        assert!(Control::mask(&[directive; 185]).is_ok());
        assert!(Control::mask(&[directive; 186]).is_err());
    }

    #[test]
    fn answers_are_read_by_their_command() {
        let config = Control::config(ConfigCommand::Read, b"").unwrap();
        let argument = [0, 64, 0x50, 1, 2, 0x10, 0, 2, b'a', b'b', 0, 0];
        assert_eq!(
            config.answer(&argument),
            Some(Answer::Config(b"ab".to_vec()))
        );
        let set = Control::config(ConfigCommand::Set, b"").unwrap();
        assert_eq!(set.answer(&argument), None);

        let mask = Control::mask(&[]).unwrap();
        let entries = [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0x0B];
        assert_eq!(mask.answer(&entries), Some(Answer::Mask(vec![MAC])));
        assert_eq!(mask.answer(&entries[..11]), None);
        let refused = Answer::MaskRefused {
            error: MaskError::BadDirective,
            index: 1,
        };
        assert_eq!(mask.answer(&[0, 1, 2, 1]), Some(refused));

        let reserve = Control::reserve(ReserveCommand::Read, &[]).unwrap();
        let holders = [0, 1, 2, 0, 0, 0, 0, 0x0B];
        assert_eq!(
            reserve.answer(&holders),
            Some(Answer::Reservation(vec![MAC]))
        );
        assert_eq!(reserve.answer(&holders[..7]), None);
    }
}
