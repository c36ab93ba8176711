//! The config string: up to 1024 bytes that initiators leave at an export (§4.2).

use alloc::vec::Vec;

use aoede_wire::{Config, ConfigCommand, ErrorCode, MAX_CONFIG_BYTES};

use crate::{IgnoreReason, SettingsError};

/// The string, and whether anybody changed it since the worker last asked.
#[derive(Debug)]
pub(crate) struct ConfigString {
    bytes: Vec<u8>,
    changed: bool,
}

impl ConfigString {
    pub(crate) fn new(mut bytes: Vec<u8>) -> Result<Self, SettingsError> {
        // Room for the longest at once: no request makes it grow.
        let Some(missing) = MAX_CONFIG_BYTES.checked_sub(bytes.len()) else {
            return Err(SettingsError::ConfigString);
        };
        bytes.reserve_exact(missing);
        Ok(Self {
            bytes,
            changed: false,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// Carries out a sub-command. `Ok`: respond with the string as it is now, and with the error
    /// if there is one. `Err`: stay silent.
    pub(crate) fn handle(
        &mut self,
        request: &Config<'_>,
    ) -> Result<Result<(), ErrorCode>, IgnoreReason> {
        let asked = || request.string().map_err(|_| IgnoreReason::ConfigString);
        let matches = match request.command {
            // Tools send reads with any length and no string behind it.
            ConfigCommand::Read => true,
            ConfigCommand::Test => self.bytes == asked()?,
            ConfigCommand::Prefix => self.bytes.starts_with(asked()?),
            ConfigCommand::Set => {
                let new = asked()?;
                if !self.bytes.is_empty() && self.bytes != new {
                    return Ok(Err(ErrorCode::ConfigPresent));
                }
                self.replace(new);
                true
            }
            ConfigCommand::ForceSet => {
                self.replace(asked()?);
                true
            }
            ConfigCommand::Unknown(_) => return Ok(Err(ErrorCode::BadArgument)),
        };
        if matches {
            Ok(Ok(()))
        } else {
            Err(IgnoreReason::ConfigMismatch)
        }
    }

    fn replace(&mut self, new: &[u8]) {
        self.changed |= self.bytes != new;
        self.bytes.clear();
        self.bytes.extend_from_slice(new);
    }
}
