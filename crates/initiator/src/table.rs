//! A table of a fixed number of places, for things that are found by their place.

/// Places that are taken or free.
#[derive(Debug)]
pub(crate) struct Table<T> {
    places: Vec<Option<T>>,
    /// Free places; the last is taken first.
    free: Vec<u32>,
    /// Places from here on were never taken: nobody need look there.
    untouched: usize,
}

impl<T> Table<T> {
    pub(crate) fn new(places: u32) -> Self {
        Self {
            places: (0..places).map(|_| None).collect(),
            free: (0..places).rev().collect(),
            untouched: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Puts a thing into a free place, or gives it back when there is none.
    pub(crate) fn insert(&mut self, thing: T) -> Result<u32, T> {
        let Some(place) = self.free.pop() else {
            return Err(thing);
        };
        if let Some(slot) = self.places.get_mut(place as usize) {
            *slot = Some(thing);
        }
        self.untouched = self.untouched.max(place as usize + 1);
        Ok(place)
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<T> {
        let thing = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(thing)
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.places.get(place as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    /// The first place whose thing is wanted.
    pub(crate) fn find(&self, wanted: impl Fn(u32, &T) -> bool) -> Option<u32> {
        let mut things = self.iter();
        things
            .find(|(place, thing)| wanted(*place, thing))
            .map(|(place, _)| place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..)
            .zip(self.places.iter().take(self.untouched))
            .filter_map(|(place, thing)| Some((place, thing.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..)
            .zip(self.places.iter_mut().take(self.untouched))
            .filter_map(|(place, thing)| Some((place, thing.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_that_were_ever_taken_are_looked_at() {
        let mut table = Table::new(1000);
        let places = [(); 3].map(|()| table.insert(()).unwrap());
        for place in places {
            table.remove(place);
        }
        for _ in 0..100 {
            let place = table.insert(()).unwrap();
            table.remove(place);
        }
        assert_eq!(table.untouched, 3);
        let last = [(); 4].map(|()| table.insert(()).unwrap())[3];
        assert_eq!(table.iter().last(), Some((last, &())));
        assert_eq!(table.iter_mut().count(), 4);
    }

    #[test]
    fn places_are_taken_given_back_and_never_grow() {
        let mut table = Table::new(2);
        assert!(table.is_empty());
        let a = table.insert('a').unwrap();
        let b = table.insert('b').unwrap();
        assert!(table.is_full());
        assert_eq!(table.insert('c'), Err('c'));
        assert_eq!(table.remove(a), Some('a'));
        assert_eq!(table.remove(a), None);
        assert_eq!(table.get(b), Some(&'b'));
        assert_eq!(table.insert('d'), Ok(a));
        let all: Vec<_> = table.iter().map(|(place, thing)| (place, *thing)).collect();
        assert_eq!(all, [(a, 'd'), (b, 'b')]);
    }
}
