//! Mappings against a model with one entry a page.
use crate::{
    mappings::{LOWEST, Mappings},
    objects::ObjectId,
    vma::{Prot, Sharing, Source, Vma, VmaFlags},
};
use alloc::{string::String, vec, vec::Vec};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use shimos_abi::addr::UserPage;

const PAGES: u64 = 48;
const BASE: u64 = LOWEST.0;

#[derive(Clone, Debug)]
enum Op {
    Insert { first: u64, pages: u64, source: u8, prot: u8 },
    Remove { first: u64, pages: u64 },
    Protect { first: u64, pages: u64, prot: u8 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || (0..PAGES - 1, 1..12u64);
    let op = prop_oneof![
        (range(), any::<u8>(), any::<u8>()).prop_map(|((first, pages), source, prot)| Op::Insert {
            first,
            pages,
            source,
            prot
        }),
        range().prop_map(|(first, pages)| Op::Remove { first, pages }),
        (range(), any::<u8>()).prop_map(|((first, pages), prot)| Op::Protect { first, pages, prot }),
    ];
    proptest::collection::vec(op, 1..60)
}

fn source_of(choice: u8, first: u64) -> Source {
    match choice % 3 {
        0 => Source::Anonymous,
        // Offsets that agree with the address, so that neighbours often continue one another.
        1 => Source::Object { id: ObjectId(1), first },
        _ => Source::Image { nid: 7, first: first + 3 },
    }
}

type Page = Option<(Source, Prot)>;

fn check(mappings: &mut Mappings, model: &[Page]) {
    mappings.validate().unwrap();
    for (at, expected) in model.iter().enumerate() {
        let page = UserPage(BASE + at as u64);
        let found = mappings.find(page).map(|vma| (vma.source.advance(page.0 - vma.first.0), vma.prot));
        assert_eq!(&found, expected, "page {at}");
        assert_eq!(mappings.area(page), mappings.find(page).map(|vma| vma.area(page)), "page {at}");
    }
    // Any of them may be the one that is remembered when something changes next.
    let asked = mappings.total_pages() * 5 % PAGES;
    assert!(mappings.area(UserPage(BASE + asked)).is_some() == model[asked as usize].is_some());
    for (first, second) in mappings.iter().zip(mappings.iter().skip(1)) {
        assert!(!first.continues_in(second), "neighbours that should be one: {first:?} {second:?}");
    }
    for pages in [1, 3, 9] {
        let end = PAGES as usize;
        let expected = (0..=end - pages)
            .rev()
            .find(|start| model[*start..*start + pages].iter().all(Option::is_none))
            .map(|start| UserPage(BASE + start as u64));
        assert_eq!(mappings.find_gap(pages as u64, LOWEST, UserPage(BASE + PAGES)), expected);
    }
}

proptest! {
    #[test]
    fn mappings_are_like_one_entry_a_page(ops in ops()) {
        let mut mappings = Mappings::default();
        let mut model: Vec<Page> = vec![None; PAGES as usize];
        for op in ops {
            match op {
                Op::Insert { first, pages, source, prot } => {
                    let end = (first + pages).min(PAGES);
                    let prot = Prot::from_bits_truncate(prot & 7);
                    mappings.insert(Vma {
                        first: UserPage(BASE + first),
                        end: UserPage(BASE + end),
                        prot,
                        may: Prot::all(),
                        sharing: Sharing::Private,
                        source: source_of(source, first),
                        flags: VmaFlags::empty(),
                        name: String::new(),
                    });
                    for page in first..end {
                        model[page as usize] = Some((source_of(source, page), prot));
                    }
                }
                Op::Remove { first, pages } => {
                    let end = (first + pages).min(PAGES);
                    let removed = mappings.remove(UserPage(BASE + first), UserPage(BASE + end));
                    let there = model[first as usize..end as usize].iter().flatten().count() as u64;
                    assert_eq!(removed.iter().map(Vma::pages).sum::<u64>(), there);
                    model[first as usize..end as usize].fill(None);
                }
                Op::Protect { first, pages, prot } => {
                    let end = (first + pages).min(PAGES);
                    let prot = Prot::from_bits_truncate(prot & 7);
                    let result = mappings.protect(UserPage(BASE + first), UserPage(BASE + end), prot);
                    let mapped = model[first as usize..end as usize].iter().take_while(|page| page.is_some()).count();
                    assert_eq!(result.is_ok(), mapped as u64 == end - first);
                    for page in model[first as usize..].iter_mut().take(mapped).flatten() {
                        page.1 = prot;
                    }
                }
            }
            check(&mut mappings, &model);
        }
    }
}

/// A program with many mappings finds room for one more without a look at all of them, and where a look at all would.
#[test]
fn room_is_found_where_a_full_search_finds_it() {
    let mut mappings = Mappings::default();
    let high = UserPage(BASE + 100_000);
    let page_of = |first: UserPage, pages: u64, prot| Vma {
        first,
        end: UserPage(first.0 + pages),
        prot,
        may: Prot::all(),
        sharing: Sharing::Private,
        source: Source::Anonymous,
        flags: VmaFlags::empty(),
        name: String::new(),
    };
    let mut seed = 1_u64;
    for step in 0..20_000_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pages = 1 + (seed >> 33) % 6;
        let prot = if step % 2 == 0 { Prot::READ } else { Prot::empty() };
        let Some(first) = mappings.find_gap(pages, LOWEST, high) else { panic!("no room") };
        if step % 500 == 0 {
            let mut fresh = Mappings::default();
            for vma in mappings.iter() {
                fresh.insert(vma.clone());
            }
            assert_eq!(fresh.find_gap(pages, LOWEST, high), Some(first), "step {step}");
        }
        mappings.insert(page_of(first, pages, prot));
        if seed >> 40 & 3 == 0 {
            let gone = BASE + 30_000 + (seed >> 20) % 70_000;
            mappings.remove(UserPage(gone), UserPage(gone + 1 + (seed >> 13) % 8));
        }
    }
}
