//! What is done to a kernel in one run, and what of it follows from seed and number.
use super::report::Outcome;
use crate::faults::{Injury, Told};
use shimos_abi::control::{Fault, Integrity};
use shimos_random::Random;
use std::{fmt, time::Duration};

/// Where a bit is flipped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// Registers of a core while it executes its kernel.
    Registers,
    /// The kernels' code. All kernels execute the same pages.
    Text,
    /// A kernel's own data.
    Data,
    /// Its heap.
    Heap,
    /// The event loop's stack.
    Stack,
    /// Its page tables, and those of the program that runs.
    Tables,
    /// The shared area, packets aside.
    Shared,
    /// The words and records of a checkpoint; the kernel dies then.
    Image,
    /// The contents of a page that a checkpoint holds; the kernel dies then.
    Page,
}

impl Part {
    const ALL: [Part; 9] = [
        Part::Registers,
        Part::Text,
        Part::Data,
        Part::Heap,
        Part::Stack,
        Part::Tables,
        Part::Shared,
        Part::Image,
        Part::Page,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Registers => "flip-registers",
            Part::Text => "flip-text",
            Part::Data => "flip-data",
            Part::Heap => "flip-heap",
            Part::Stack => "flip-stack",
            Part::Tables => "flip-tables",
            Part::Shared => "flip-shared",
            Part::Image => "flip-image",
            Part::Page => "flip-page",
        }
    }
}

/// A class of faults.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// One that can be ordered.
    Ordered(Injury),
    /// A bit flip.
    Flip(Part),
}

/// What must come of a class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// The kernel dies.
    Death,
    /// Nobody dies.
    Life,
    /// One or the other.
    Either,
}

impl Class {
    /// All, in the order in which they take turns.
    pub fn all() -> Vec<Class> {
        let flips = Part::ALL.map(Class::Flip);
        Injury::all().map(Class::Ordered).chain(flips).collect()
    }

    /// Those that `--class` names as one: `ordered`, `flips`, `table-iii`, or a class by its own name.
    pub fn named(word: &str) -> Result<Vec<Class>, String> {
        let all = Class::all();
        let chosen: Vec<Class> = match word {
            "flips" => all.into_iter().filter(|class| matches!(class, Class::Flip(_))).collect(),
            "ordered" => all.into_iter().filter(|class| matches!(class, Class::Ordered(_))).collect(),
            "table-iii" => crate::demo::FAULTS.map(|fault| Class::Ordered(Injury::Ordered(fault))).to_vec(),
            word => all.into_iter().filter(|class| class.to_string() == word).collect(),
        };
        if chosen.is_empty() {
            let known: Vec<String> = Class::all().iter().map(Class::to_string).collect();
            return Err(format!("is no class; one of table-iii, ordered, flips, {}", known.join(", ")));
        }
        Ok(chosen)
    }

    /// What must come of it.
    pub fn expected(self) -> Expected {
        match self {
            Class::Ordered(Injury::Ordered(fault)) => match fault {
                Fault::LostIpis | Fault::Slow => Expected::Life,
                Fault::WildHeap | Fault::WildTables | Fault::WildOutgoing | Fault::WildQueue | Fault::WildCommons => {
                    Expected::Either
                }
                _ => Expected::Death,
            },
            Class::Ordered(Injury::MachineCheck(Told::Alone | Told::Everyone)) => Expected::Death,
            Class::Flip(Part::Image | Part::Page) => Expected::Death,
            Class::Flip(_) => Expected::Either,
        }
    }

    /// Whether what is hit belongs to all kernels, and not to the one that was chosen.
    pub fn hits_all(self) -> bool {
        matches!(self, Class::Flip(Part::Text) | Class::Ordered(Injury::Ordered(Fault::WildCommons)))
    }

    /// Why this outcome may come of it, if it may; [`Outcome::good`] ones may always.
    pub fn excuse(self, outcome: Outcome, integrity: Integrity) -> Option<&'static str> {
        let of_program = matches!(outcome, Outcome::ProgramLost | Outcome::ClientWrong | Outcome::Silent);
        let ordered = |wanted: &[Fault]| matches!(self, Class::Ordered(Injury::Ordered(it)) if wanted.contains(&it));
        if matches!(outcome, Outcome::TwoCopies | Outcome::Invalid) {
            return None;
        }
        if self == Class::Flip(Part::Text) {
            return Some("all kernels execute the same pages of code");
        }
        if self == Class::Flip(Part::Shared) || ordered(&[Fault::WildCommons]) {
            return Some("all kernels go by the words of the commons");
        }
        if !of_program {
            return None;
        }
        match self {
            Class::Flip(Part::Tables) | Class::Ordered(Injury::Ordered(Fault::WildTables)) => {
                Some("page tables have no checks: a program may be shown other memory of its kernel, or none")
            }
            Class::Flip(Part::Image) | Class::Ordered(Injury::Ordered(Fault::DamageRecords)) => {
                Some("the generation before contradicts what was sent since, and both go by the same page map")
            }
            Class::Flip(Part::Registers | Part::Heap | Part::Data | Part::Stack)
            | Class::Ordered(Injury::Ordered(Fault::WildHeap)) => {
                Some("a kernel's own data has no checksums: what it holds for a program may be wrong and saved so")
            }
            Class::Flip(Part::Page) | Class::Ordered(Injury::Ordered(Fault::DamagePage))
                if integrity == Integrity::Records =>
            {
                Some("contents of pages have checksums with --integrity pages alone")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Class::Ordered(injury) => injury.name(),
            Class::Flip(part) => part.name(),
        })
    }
}

/// Whose kernel is hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// The one under a service, by a number.
    Service(usize),
    /// The one with the active monitor.
    Monitor,
    /// The one that drives the network card.
    Card,
    /// Any, by a number.
    Any(usize),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which.
    pub number: u64,
    /// What is done.
    pub class: Class,
    /// To whom.
    pub aim: Aim,
    /// When, after the machine was found well.
    pub delay: Duration,
    /// What all the rest follows from.
    pub seed: u64,
}

impl Plan {
    /// The run of this number: classes take turns.
    pub fn new(seed: u64, number: u64, classes: &[Class]) -> Plan {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let turn = number.checked_rem(classes.len() as u64).unwrap_or_default();
        let class = classes.get(turn as usize).copied().unwrap_or(Class::Ordered(Injury::Ordered(Fault::Panic)));
        let aim = match random.below(8) {
            0 => Aim::Monitor,
            1 => Aim::Card,
            2 => Aim::Any(random.index(64)),
            _ => Aim::Service(random.index(64)),
        };
        let delay = Duration::from_micros(random.below(60_000));
        Plan { number, class, aim, delay, seed: random.bits() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_name() {
        for class in Class::all() {
            assert_eq!(Class::named(&class.to_string()), Ok(vec![class]));
        }
        assert_eq!(Class::named("table-iii").map(|all| all.len()), Ok(4));
        assert_eq!(Class::named("flips").map(|all| all.len()), Ok(9));
        assert!(Class::named("flood").expect_err("unknown").contains("flip-heap"));
    }

    #[test]
    fn seed_and_number_say_all() {
        let all = Class::all();
        let plan = |seed, number| format!("{:?}", Plan::new(seed, number, &all));
        assert_eq!(plan(1, 5), plan(1, 5));
        assert_ne!(plan(1, 5), plan(2, 5));
        assert_ne!(plan(1, 5), plan(1, 6));
        let seen: std::collections::BTreeSet<Class> =
            (0..all.len() as u64).map(|number| Plan::new(3, number, &all).class).collect();
        assert_eq!(seen.len(), all.len());
    }
}
