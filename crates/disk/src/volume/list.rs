//! Doubly linked lists of numbers, all links in one table: moving a page between lists allocates
//! nothing.
#![forbid(unsafe_code)]

/// No number.
pub(super) const NONE: u32 = u32::MAX;

/// A number's neighbours in the one list that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

impl Links {
    pub(super) const ALONE: Self = Self {
        previous: NONE,
        next: NONE,
    };
}

/// A list over a table of links.
#[derive(Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
    len: usize,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
        len: 0,
    };

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The one after `number`.
    pub(super) fn after(number: u32, links: &[Links]) -> Option<u32> {
        let next = links.get(number as usize)?.next;
        (next != NONE).then_some(next)
    }

    pub(super) fn push_back(&mut self, number: u32, links: &mut [Links]) {
        let last = std::mem::replace(&mut self.last, number);
        set(links, number, |own| {
            *own = Links {
                previous: last,
                next: NONE,
            };
        });
        if last == NONE {
            self.first = number;
        } else {
            set(links, last, |own| own.next = number);
        }
        self.len += 1;
    }

    pub(super) fn push_front(&mut self, number: u32, links: &mut [Links]) {
        let first = std::mem::replace(&mut self.first, number);
        set(links, number, |own| {
            *own = Links {
                previous: NONE,
                next: first,
            };
        });
        if first == NONE {
            self.last = number;
        } else {
            set(links, first, |own| own.previous = number);
        }
        self.len += 1;
    }

    /// Takes `number`, which is in this list, out of it.
    pub(super) fn remove(&mut self, number: u32, links: &mut [Links]) {
        let Some(&Links { previous, next }) = links.get(number as usize) else {
            return;
        };
        if previous == NONE {
            debug_assert_eq!(self.first, number);
            self.first = next;
        } else {
            set(links, previous, |own| own.next = next);
        }
        if next == NONE {
            debug_assert_eq!(self.last, number);
            self.last = previous;
        } else {
            set(links, next, |own| own.previous = previous);
        }
        set(links, number, |own| *own = Links::ALONE);
        self.len -= 1;
    }
}

fn set(links: &mut [Links], number: u32, change: impl FnOnce(&mut Links)) {
    if let Some(own) = links.get_mut(number as usize) {
        change(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &List, links: &[Links]) -> Vec<u32> {
        std::iter::successors(list.first(), |&number| List::after(number, links)).collect()
    }

    #[test]
    fn numbers_move_between_lists() {
        let mut links = [Links::ALONE; 5];
        let (mut a, mut b) = (List::EMPTY, List::EMPTY);
        for number in [3, 1, 4] {
            a.push_back(number, &mut links);
        }
        a.push_front(0, &mut links);
        assert_eq!(numbers(&a, &links), [0, 3, 1, 4]);
        a.remove(1, &mut links);
        b.push_front(1, &mut links);
        a.remove(0, &mut links);
        b.push_front(0, &mut links);
        a.remove(4, &mut links);
        b.push_back(4, &mut links);
        assert_eq!(numbers(&a, &links), [3]);
        assert_eq!(numbers(&b, &links), [0, 1, 4]);
        a.remove(3, &mut links);
        assert_eq!((a.len(), b.len()), (0, 3));
        assert_eq!(numbers(&a, &links), [0; 0]);
        a.push_back(2, &mut links);
        assert_eq!(numbers(&a, &links), [2]);
    }
}
