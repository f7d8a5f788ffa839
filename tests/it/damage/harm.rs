//! Ways of damaging a database of 4 KiB pages, and a walk over its pages that knows nothing of the reader under test.

use std::ops::Range;

/// Changes a file's bytes.
pub type Harm = Box<dyn Fn(&mut Vec<u8>)>;

/// Bytes of a page in every file that is damaged here.
pub const PAGE: usize = 4096;
const HEADER: usize = 16;
const ELEMENT: usize = 16;

/// Small and deterministic: splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.word() as u8).collect()
    }
}

/// A page that the current tree reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    pub id: usize,
    pub is_branch: bool,
    pub count: usize,
    pub overflow: usize,
}

impl Live {
    pub fn start(&self) -> usize {
        self.id * PAGE
    }

    pub fn element(&self, index: usize) -> usize {
        self.start() + HEADER + index * ELEMENT
    }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

pub fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Where the current meta record stands.
fn current_meta(bytes: &[u8]) -> usize {
    if u64_at(bytes, PAGE + 64) > u64_at(bytes, 64) { PAGE } else { 0 }
}

pub fn root(bytes: &[u8]) -> usize {
    u64_at(bytes, current_meta(bytes) + 32) as usize
}

/// The pages that an undamaged file's tree reaches, parents first.
pub fn live(bytes: &[u8]) -> Vec<Live> {
    let (mut found, mut pending) = (Vec::new(), vec![root(bytes)]);
    while let Some(id) = pending.pop() {
        let start = id * PAGE;
        let page = Live {
            id,
            is_branch: u16_at(bytes, start + 8) == 1,
            count: usize::from(u16_at(bytes, start + 10)),
            overflow: u32_at(bytes, start + 12) as usize,
        };
        for element in (0..page.count).map(|index| page.element(index)) {
            if page.is_branch {
                pending.push(u64_at(bytes, element + 8) as usize);
            } else if u32_at(bytes, element) & 1 == 1 {
                let value = element + u32_at(bytes, element + 4) as usize + u32_at(bytes, element + 8) as usize;
                pending.extend(Some(u64_at(bytes, value) as usize).filter(|root| *root != 0));
            }
        }
        found.push(page);
    }
    found
}

/// The page that an element of a branch leads to.
pub fn child(bytes: &[u8], branch: &Live, index: usize) -> usize {
    u64_at(bytes, branch.element(index) + 8) as usize
}

/// Where the headers of the top-level buckets stand, with their names.
pub fn buckets(bytes: &[u8]) -> Vec<(Vec<u8>, Range<usize>)> {
    let page = live(bytes)[0];
    assert!(!page.is_branch);
    let bucket = |index| {
        let element = page.element(index);
        let key = element + u32_at(bytes, element + 4) as usize;
        let value = key + u32_at(bytes, element + 8) as usize;
        (bytes[key..value].to_vec(), value..value + u32_at(bytes, element + 12) as usize)
    };
    (0..page.count).map(bucket).collect()
}

/// Changes a field of both meta records and makes their checksums anew, as no accident does.
pub fn metas(bytes: &mut [u8], at: usize, field: &[u8]) {
    for page in [0, PAGE] {
        one_meta(bytes, page, at, field);
    }
}

pub fn one_meta(bytes: &mut [u8], page: usize, at: usize, field: &[u8]) {
    put(bytes, page + at, field);
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let checksum = bytes[page + 16..page + 72].iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    put(bytes, page + 72, &checksum.to_le_bytes());
}

fn named(name: String, harm: impl Fn(&mut Vec<u8>) + 'static) -> (String, Harm) {
    (name, Box::new(harm))
}

fn write(name: String, at: usize, field: Vec<u8>) -> (String, Harm) {
    named(name, move |bytes| put(bytes, at, &field))
}

/// Whole pages of the tree lost: zeros, noise, or another page in their place.
pub fn lost_pages(bytes: &[u8]) -> Vec<(String, Harm)> {
    let mut random = Random::new(2);
    let mut harms = Vec::new();
    let pages = live(bytes);
    for page in &pages {
        let (id, start) = (page.id, page.start());
        harms.push(write(format!("page {id} zeroed"), start, vec![0; PAGE]));
        harms.push(write(format!("page {id} noise"), start, random.bytes(PAGE)));
        let noise = random.bytes(PAGE - HEADER);
        harms.push(write(format!("page {id} noise behind its header"), start + HEADER, noise));
        let other = random.pick(&pages);
        if other.id != id {
            let name = format!("page {id} a copy of page {}", other.id);
            harms.push(write(name, start, bytes[other.start()..other.start() + PAGE].to_vec()));
        }
    }
    harms
}

/// Each field of each page header and of some elements wrong.
pub fn wrong_fields(bytes: &[u8]) -> Vec<(String, Harm)> {
    let mut random = Random::new(3);
    let mut harms = Vec::new();
    for page in live(bytes) {
        let (id, start) = (page.id, page.start());
        harms.push(write(format!("page {id} has another id"), start, random.word().to_le_bytes().to_vec()));
        for flags in [0_u16, 1, 2, 3, 4, 0x10, 0x12, 0xffff] {
            let own = if page.is_branch { 1 } else { 2 };
            if flags != own {
                harms.push(write(format!("page {id} has flags {flags:#x}"), start + 8, flags.to_le_bytes().to_vec()));
            }
        }
        for count in [0, 1, page.count / 2, page.count.saturating_sub(1), page.count + 1, 0xffff] {
            if count != page.count {
                let field = (count as u16).to_le_bytes().to_vec();
                harms.push(write(format!("page {id} counts {count}"), start + 10, field));
            }
        }
        for overflow in [u32::MAX, 1 << 31, 1 << 20, 100_000] {
            let name = format!("page {id} has {overflow} overflow pages");
            harms.push(write(name, start + 12, overflow.to_le_bytes().to_vec()));
        }
        if page.overflow > 0 {
            harms.push(write(format!("page {id} has no overflow page"), start + 12, vec![0; 4]));
        }
        if page.count > 0 {
            harms.extend(wrong_elements(bytes, &page, &mut random));
        }
    }
    harms
}

fn wrong_elements(bytes: &[u8], page: &Live, random: &mut Random) -> Vec<(String, Harm)> {
    let mut harms = Vec::new();
    let index = random.below(page.count);
    let (id, element) = (page.id, page.element(index));
    // A leaf's element has its flags first, a branch's its position.
    let position = if page.is_branch { element } else { element + 4 };
    let here = u32_at(bytes, position);
    for wrong in [0, 8, here - 1, here + 1, here + 4096, u32::MAX, 1 << 31] {
        let name = format!("page {id}: element {index} at {wrong} instead of {here}");
        harms.push(write(name, position, wrong.to_le_bytes().to_vec()));
    }
    let key_bytes = u32_at(bytes, position + 4);
    // A branch's last key may end in a zero that is not missed; it loses nothing.
    let shorter = if page.is_branch { 0 } else { key_bytes - 1 };
    for wrong in [0, shorter, key_bytes + 1, 32_769, u32::MAX] {
        let name = format!("page {id}: element {index} has a key of {wrong} bytes");
        harms.push(write(name, position + 4, wrong.to_le_bytes().to_vec()));
    }
    if !page.is_branch {
        for flags in [2_u32, 1 << 31] {
            let name = format!("page {id}: element {index} has flags {flags:#x}");
            harms.push(write(name, element, flags.to_le_bytes().to_vec()));
        }
        for wrong in [u32::MAX, 1 << 31, 1 << 24] {
            let name = format!("page {id}: element {index} has a value of {wrong} bytes");
            harms.push(write(name, element + 12, wrong.to_le_bytes().to_vec()));
        }
    }
    if page.count > 1 {
        let (first, second) = (page.element(0), page.element(1));
        harms.push(named(format!("page {id}: two elements the same"), move |bytes| {
            bytes.copy_within(first..first + ELEMENT, second);
        }));
        let from = if page.is_branch { first } else { first + 4 };
        let to = if page.is_branch { second } else { second + 4 };
        harms.push(named(format!("page {id}: two elements overlap"), move |bytes| {
            let position = u32_at(bytes, from) - ELEMENT as u32;
            put(bytes, to, &position.to_le_bytes());
        }));
        harms.push(named(format!("page {id}: two elements swapped"), move |bytes| {
            let (one, other) = (bytes[first..second].to_vec(), bytes[second..second + ELEMENT].to_vec());
            put(bytes, first, &other);
            put(bytes, second, &one);
        }));
    }
    harms
}

/// Child page ids and bucket roots that lead up, to themselves, to siblings, or nowhere.
pub fn wrong_ways(bytes: &[u8]) -> Vec<(String, Harm)> {
    let pages = live(bytes);
    let high_water_mark = u64_at(bytes, current_meta(bytes) + 56);
    let nowhere = [0, 1, high_water_mark, high_water_mark + 1, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
    let mut harms = Vec::new();
    for page in pages.iter().filter(|page| page.is_branch) {
        for index in [0, 1, page.count / 2, page.count - 1] {
            let at = page.element(index) + 8;
            let sibling = u64_at(bytes, page.element((index + 1) % page.count) + 8);
            let up = [page.id as u64, root(bytes) as u64, sibling];
            for child in nowhere.into_iter().chain(up) {
                let name = format!("page {}: child {index} is {child}", page.id);
                harms.push(write(name, at, child.to_le_bytes().to_vec()));
            }
        }
    }
    for (name, value) in buckets(bytes) {
        let name = String::from_utf8(name).unwrap();
        let is_inline = u64_at(bytes, value.start) == 0;
        let up = [root(bytes) as u64, pages[1].id as u64];
        for target in nowhere.into_iter().chain(up) {
            let same = target == u64_at(bytes, value.start);
            if !same {
                let name = format!("bucket {name} has its root at {target}");
                harms.push(write(name, value.start, target.to_le_bytes().to_vec()));
            }
        }
        if is_inline {
            harms.extend(broken_inline(&name, value.start));
        }
    }
    harms
}

fn broken_inline(name: &str, value: usize) -> Vec<(String, Harm)> {
    let page = value + HEADER;
    let fields: [(usize, &[u8], &str); 5] = [
        (page + 8, &[1, 0], "a branch"),
        (page + 8, &[0x10, 0], "a freelist"),
        (page + 10, &[0xff, 0xff], "full"),
        (page + 12, &[1, 0, 0, 0], "with overflow"),
        (page + 10, &[200, 0], "counting 200"),
    ];
    fields.map(|(at, field, what)| write(format!("inline bucket {name} {what}"), at, field.to_vec())).into()
}

/// Meta records that lie with a checksum that fits.
pub fn lying_metas(bytes: &[u8]) -> Vec<(String, Harm)> {
    let mut harms = Vec::new();
    let mark = u64_at(bytes, current_meta(bytes) + 56);
    let mut lie = |what: &str, at: usize, value: u64| {
        harms.push(named(format!("both metas: {what} {value}"), move |bytes| metas(bytes, at, &value.to_le_bytes())));
    };
    // One page less is no lie where that page is free: a database's file is longer than its mark anyway.
    for value in [0, 1, 2, 3, mark / 2, mark + 1, 2 * mark, 1 << 32, 1 << 63, u64::MAX] {
        lie("high-water mark", 56, value);
    }
    for value in [0, 1, mark, mark + 1, 1 << 40, u64::MAX] {
        lie("root", 32, value);
    }
    for value in [0, 1, mark, root(bytes) as u64, 1 << 40, u64::MAX - 1] {
        lie("freelist", 48, value);
    }
    for page_size in [512_u32, 1024, 2048, 8192, 1 << 16, 1 << 24] {
        harms.push(named(format!("both metas: page size {page_size}"), move |bytes| {
            metas(bytes, 24, &page_size.to_le_bytes());
        }));
    }
    for page in [0, PAGE] {
        harms.push(write(format!("meta at {page} zeroed"), page, vec![0; 80]));
        harms.push(write(format!("meta at {page} is noise"), page, Random::new(4).bytes(80)));
        harms.push(write(format!("meta at {page} has another kind"), page + 8, vec![2]));
    }
    harms
}

/// Pages in use that no tree reaches.
pub fn free(bytes: &[u8]) -> Vec<usize> {
    let pages = live(bytes);
    let taken = |id: usize| pages.iter().any(|page| (page.id..=page.id + page.overflow).contains(&id));
    (2..u64_at(bytes, current_meta(bytes) + 56) as usize).filter(|id| !taken(*id)).collect()
}

/// Makes page `id` a freelist page that counts and lists what it is told, and has both metas name it.
pub fn add_freelist(bytes: &mut [u8], id: usize, count: u16, words: &[u64]) {
    let start = id * PAGE;
    bytes[start..start + PAGE].fill(0);
    header(bytes, id, 0x10, count);
    for (at, word) in (start + HEADER..).step_by(8).zip(words) {
        put(bytes, at, &word.to_le_bytes());
    }
    metas(bytes, 48, &(id as u64).to_le_bytes());
}

fn header(bytes: &mut [u8], id: usize, flags: u16, count: u16) {
    put(bytes, id * PAGE, &(id as u64).to_le_bytes());
    put(bytes, id * PAGE + 8, &flags.to_le_bytes());
    put(bytes, id * PAGE + 10, &count.to_le_bytes());
    put(bytes, id * PAGE + 12, &[0; 4]);
}

/// Makes page `id` a leaf of nothing but buckets whose root is `root`.
pub fn leaf_of_buckets(bytes: &mut [u8], id: usize, root: usize) {
    const BUCKETS: usize = 100;
    let start = id * PAGE;
    bytes[start..start + PAGE].fill(0);
    header(bytes, id, 2, BUCKETS as u16);
    for index in 0..BUCKETS {
        let element = start + HEADER + index * ELEMENT;
        let data = start + HEADER + BUCKETS * ELEMENT + index * (1 + 16);
        let fields = [1, (data - element) as u32, 1, 16];
        for (at, field) in (element..).step_by(4).zip(fields) {
            put(bytes, at, &field.to_le_bytes());
        }
        put(bytes, data, &[index as u8]);
        put(bytes, data + 1, &(root as u64).to_le_bytes());
    }
}

/// Something at random: bits, bytes, runs, pages, moved and exchanged pieces, cuts, or several of these.
pub fn at_random(bytes: &mut Vec<u8>, pages: &[Live], random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        if bytes.len() < 2 * PAGE {
            return;
        }
        one_at_random(bytes, pages, random);
    }
}

fn one_at_random(bytes: &mut Vec<u8>, pages: &[Live], random: &mut Random) {
    let length = bytes.len();
    let whole_pages = length / PAGE;
    match random.below(11) {
        0 => bytes[random.below(length)] ^= 1 << random.below(8),
        1 => bytes[random.below(length)] = random.word() as u8,
        2 => {
            let noise_bytes = 1 + random.below(600);
            let noise = random.bytes(noise_bytes);
            let at = random.below(length - noise.len());
            put(bytes, at, &noise);
        }
        3 => {
            let at = random.below(length - 600);
            let zeros = 1 + random.below(600);
            bytes[at..at + zeros].fill(0);
        }
        4 => {
            let (from, to) = (random.below(whole_pages) * PAGE, random.below(whole_pages) * PAGE);
            bytes.copy_within(from..from + PAGE, to);
        }
        5 => bytes.truncate(random.below(length)),
        // The head of a live page is where damage does most.
        6..=8 => {
            let at = random.pick(pages).start() + random.below(256);
            if at < length {
                bytes[at] ^= 1 << random.below(8);
            }
        }
        9 => {
            let at = random.pick(pages).start() + 8 + random.below(8);
            if at < length {
                bytes[at] = random.word() as u8;
            }
        }
        _ => {
            let field = random.pick(&[(32, 8), (48, 8), (56, 8), (24, 4)]);
            let value = random.word() >> random.below(64);
            metas(bytes, field.0, &value.to_le_bytes()[..field.1]);
        }
    }
}
