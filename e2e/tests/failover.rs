//! The project's initiator under load while paths, targets and interfaces fail: no request fails,
//! no sector holds anything but what was written to it, and where there is another path the load
//! does not stand still for a second.

#![expect(clippy::indexing_slicing, reason = "what is too short fails the test")]

#[path = "failover/load.rs"]
mod load;
#[path = "failover/noise.rs"]
mod noise;
#[path = "failover/paths.rs"]
mod paths;
#[path = "failover/restarts.rs"]
mod restarts;
#[path = "failover/scene.rs"]
mod scene;
