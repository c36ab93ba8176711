//! What runs have done.

use std::fmt;

macro_rules! counters {
    ($($name:ident $needed:literal),* $(,)?) => {
        /// What runs have done: a simulation in which nothing goes wrong shows nothing.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Report {
            $(pub(crate) $name: u64,)*
        }

        impl Report {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Of a thousand seeds there must have been so many.
            pub(crate) fn check(&self, seeds: u64) {
                $(assert!(
                    self.$name >= seeds * $needed / 1000,
                    "too few: {} {}", self.$name, stringify!($name)
                );)*
            }
        }

        impl fmt::Display for Report {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>12} {}", self.$name, stringify!($name).replace('_', " "))?;)*
                Ok(())
            }
        }
    };
}

counters! {
    requests 50_000,
    failed 500,
    given_up 50,
    losses_told 5,
    seconds 10_000,
    frames 100_000,
    repeated 1000,
    copies_taken 1000,
    copies_excused 200,
    duplicates_told_by_their_tag 500,
    stale_tags 20,
    coalesced 2000,
    damaged 100,
    negotiations 1000,
    paths_lost 100,
    power_cuts 100,
    kills 100,
    initiators_killed 200,
    partitions 200,
    config_strings 20,
    crowds 5,
}
