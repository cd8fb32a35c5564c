//! When something that ought to be in a list is gone, and not merely missed: a list may be older than the thing, and one that
//! came from a server that has just started may be empty.

/// So many complete lists in a row must be without it.
const LISTS: u8 = 2;

/// Something that was there at a time `since`, and the complete lists after that time that are without it. `T` orders the
/// beginnings of lists: a time, or a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Absence<T> {
    since: T,
    lists: u8,
    first: Option<T>,
}

impl<T: Copy + PartialOrd> Absence<T> {
    /// It was there at `since`: lists that were begun then, or before, say nothing about it.
    pub fn of_one_there(since: T) -> Self {
        Self {
            since,
            lists: 0,
            first: None,
        }
    }

    /// A list has it.
    pub fn seen(&mut self) {
        (self.lists, self.first) = (0, None);
    }

    /// A complete list that was begun at `begun` is without it.
    pub fn missed(&mut self, begun: T) {
        if begun > self.since {
            self.first.get_or_insert(begun);
            self.lists = self.lists.saturating_add(1);
        }
    }

    /// Whether it is gone.
    pub fn is_certain(&self) -> bool {
        self.lists >= LISTS
    }

    /// When the first of the lists was begun that are without it.
    pub fn first_missed(&self) -> Option<T> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What happens between the beginnings and the ends of lists, of which several may be under way: they overtake each other.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Begin,
        /// This one of those under way answers, with what was there at some moment since it was begun; or fails.
        End {
            which: usize,
            late: bool,
            fails: bool,
        },
        /// The submission is answered: it is there.
        Appear,
        /// The server loses it.
        Lose,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Begin),
            4 => (0..4usize, any::<bool>(), prop::bool::weighted(0.2))
                .prop_map(|(which, late, fails)| Step::End { which, late, fails }),
            1 => Just(Step::Appear),
            1 => Just(Step::Lose),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        /// Whatever the order: what is there is never called gone. What two lists in a row are without that were begun after
        /// it was lost always is.
        #[test]
        fn only_what_was_lost_is_gone(steps in steps()) {
            let mut there = false;
            let mut lost = false;
            let mut clock = 0u32;
            let mut absence: Option<Absence<u32>> = None;
            // When it was begun, whether it was there then, and whether it was lost then.
            let mut under_way: Vec<(u32, bool, bool)> = Vec::new();
            let mut after_loss = 0;
            for step in steps {
                clock += 1;
                match step {
                    Step::Begin => under_way.push((clock, there, lost)),
                    Step::Appear if absence.is_none() => {
                        there = true;
                        absence = Some(Absence::of_one_there(clock));
                    }
                    Step::Lose if there => (there, lost) = (false, true),
                    Step::End { which, late, fails } if which < under_way.len() => {
                        let (begun, was_there, was_lost) = under_way.remove(which);
                        let Some(absence) = &mut absence else { continue };
                        if fails {
                            continue;
                        }
                        if if late { there } else { was_there } {
                            absence.seen();
                            after_loss = 0;
                        } else {
                            absence.missed(begun);
                            after_loss += u8::from(was_lost);
                        }
                    }
                    _ => {}
                }
                if let Some(absence) = &absence {
                    prop_assert!(lost || !absence.is_certain(), "it is there");
                    prop_assert!(after_loss < LISTS || absence.is_certain(), "it is gone");
                    prop_assert_eq!(absence.first_missed().is_some(), absence.lists > 0);
                }
            }
        }
    }
}
