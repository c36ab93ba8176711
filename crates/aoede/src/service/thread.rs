//! A daemon's worker: a server in a thread of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aoede_disk::Pool;
use aoede_link::Monitor;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;

use super::order::{News, Order};
use super::seats::Seats;
use super::server::{Orders, Parts, Server, Waking};
use super::{BUFFERS_RANGE, no_memory, pool_shape};

/// What the data of a buffer is aligned to: fit for every device, as it is not known which comes.
const ALIGNMENT: usize = 4096;
/// Operations of volumes that are not requests, of all exports together: writing behind, reading
/// ahead, syncs. Who finds no room waits for a completion.
const OWN_OPERATIONS: usize = 1024;

/// Gives a worker its orders.
#[derive(Clone, Debug)]
pub(crate) struct OrderSender {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
}

/// What a worker starts with.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Counted from 0.
    pub(crate) number: u16,
    /// Most that its exports hold at once, as far as it is known.
    pub(crate) buffers: usize,
    /// Of its interfaces, the largest.
    pub(crate) mtu: u32,
    pub(crate) busy_poll: Duration,
    /// What all workers count time from.
    pub(crate) start: Instant,
    pub(crate) news: UnboundedSender<News>,
}

/// Starts a worker that serves nothing, and takes no frame before [`Order::Begin`]. Its end is told
/// by [`News::Ended`], however it comes.
///
/// # Errors
/// No thread, or no descriptor.
pub(crate) fn spawn_worker(setup: Setup) -> io::Result<OrderSender> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = Arc::new(eventfd(0, flags)?);
    let (orders, receiver) = mpsc::channel();
    let sender = OrderSender {
        orders,
        wake: Arc::clone(&wake),
    };
    let (number, news) = (setup.number, setup.news.clone());
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            // Nothing of it is used afterwards.
            let run = AssertUnwindSafe(|| run(setup, receiver, wake));
            let ended = catch_unwind(run)
                .unwrap_or_else(|_| Err(anyhow::anyhow!("worker {number} has panicked")));
            // If the main thread is gone there is nobody to tell.
            let _ = news.send(News::Ended(number, ended));
        })?;
    Ok(sender)
}

impl OrderSender {
    /// Gives an order. To one that has ended it is lost: whoever waits for an answer sees that.
    pub(crate) fn send(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            // One that is too full for more is readable already.
            let _ = rustix::io::write(&*self.wake, &[1; 8]);
        }
    }
}

fn run(setup: Setup, orders: mpsc::Receiver<Order>, wake: Arc<OwnedFd>) -> anyhow::Result<()> {
    let monitor = Monitor::open().context("cannot ask the kernel about interfaces")?;
    // As many as any exports may come to have: memory that is not used costs none.
    let most = usize::from(*BUFFERS_RANGE.end());
    let shape = pool_shape(setup.mtu, most, ALIGNMENT);
    let pool = Pool::with_reserve(shape, setup.buffers).with_context(|| no_memory(shape))?;
    let parts = Parts {
        name: format!("worker {}", setup.number),
        pool,
        operations: most + OWN_OPERATIONS,
        seats: Seats::new(monitor),
        busy_poll: setup.busy_poll,
        start: setup.start,
        waking: Waking::Orders(Orders {
            number: setup.number,
            receiver: orders,
            wake,
            news: setup.news,
        }),
    };
    Server::new(parts)?.run()
}
