//! Filter and refine.

use super::activations::Activations;
use super::scan::{self, Bounds};
use super::{Sketch, TILE};
use crate::cpu::dense::DenseView;
use crate::cpu::exp::exp;
use crate::cpu::isa::{Isa, on_each_isa};
use crate::cpu::parallel;
use crate::cpu::row_tiles::SplitActivations;

/// Which logits are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The largest, so many.
    pub count: usize,
    /// All within so much of the largest.
    pub within: Option<f32>,
    /// As many of the largest as have a share of the probability.
    pub share: Option<Share>,
    /// These, whatever they are.
    pub also: Vec<u32>,
}

/// A share of the sum of `exp(logit / temperature)` over all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Below 1.
    pub of_all: f32,
    /// More than 0.
    pub temperature: f32,
}

/// Some logits of a head, and what is known of the others.
#[derive(Clone, Debug, PartialEq)]
pub struct TopLogits {
    /// All that were wanted, and some more, with their rows; in no order.
    pub logits: Vec<(u32, f32)>,
    /// Every row with a logit of at least this is among them, and so is every one so little below that `f32` may not tell the
    /// two apart when they are scaled.
    pub from: f32,
    /// The largest logit.
    pub largest: f32,
    /// What the sum of `exp((logit - largest) / temperature)` over all other rows is at least and at most; zero and infinity
    /// if no [`Share`] was wanted.
    pub rest: [f64; 2],
    /// Bytes that were read for it.
    pub bytes: usize,
}

/// A head and its copy.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// The rows.
    pub rows: DenseView<'a>,
    /// Their copy.
    pub sketch: &'a Sketch,
}

/// Tiles of one task.
const TASK: usize = 16;

/// Full rows of one task.
const ROWS: usize = 8;

/// One in so many rows is read in full at most; where more would be, the whole head is the shorter way.
const LIMIT: usize = 12;

/// How many of the largest logits are looked at for a [`Share`], one number after the other.
const STEPS: [usize; 3] = [16, 128, 1024];

/// What a sum of exponentials may be wrong by: their arguments are of floats with eight digits, up to 88.
const OF_EXP: f64 = 1e-4;

/// The logits of one token `x` that are wanted, the very floats that [`crate::cpu::dense::linear`] gives, or `None` where the
/// whole head has to be read for them.
///
/// # Panics
/// When this processor cannot run `isa`, or the sketch or the token is not of these rows.
pub fn top(isa: Isa, head: Head<'_>, x: &[f32], wanted: &Wanted) -> Option<TopLogits> {
    isa.check();
    let (rows, cols) = (head.rows.rows(), head.rows.cols());
    assert_eq!(
        (head.sketch.rows(), head.sketch.cols(), x.len()),
        (rows, cols, cols),
        "a sketch and a token of these rows"
    );
    let split = head.rows.split(x);
    let activations = Activations::new(x, split.first())?;
    let mut search = Search::new(isa, head, x, split.first(), &activations);
    search.scan();
    let count = wanted.count.max(1);
    search.find(count, wanted.within)?;
    search.read(&wanted.also.iter().map(|id| *id as usize).filter(|id| *id < rows).collect::<Vec<_>>())?;
    let mut rest = [0.0, f64::INFINITY];
    if let Some(share) = wanted.share {
        rest = search.rest(share);
        for step in STEPS.into_iter().filter(|step| *step > count) {
            if search.has(share, rest) {
                break;
            }
            search.find(step, None)?;
            rest = search.rest(share);
        }
    }
    let Search { known, from, largest, bytes, .. } = search;
    Some(TopLogits { logits: known, from, largest, rest, bytes })
}

struct Search<'a> {
    isa: Isa,
    head: Head<'a>,
    x: &'a [f32],
    split: Option<&'a SplitActivations>,
    activations: &'a Activations,
    tiles: Vec<Found>,
    /// Rows that were read in full, with their logits.
    known: Vec<(u32, f32)>,
    largest: f32,
    from: f32,
    bytes: usize,
}

/// What is known of a tile.
#[derive(Clone)]
struct Found {
    bounds: Bounds,
    /// The lanes that are rows and were not read in full.
    open: u16,
    /// Whether all bits of the sketch were read.
    fine: bool,
    /// The largest product among the open lanes, its lane, and the largest that an open logit can be.
    product: f32,
    lane: u8,
    limit: f32,
}

impl Found {
    fn of_open(&self) -> impl Iterator<Item = usize> + use<> {
        let open = self.open;
        (0..TILE).filter(move |lane| open >> lane & 1 == 1)
    }

    fn limit_of(&self, lane: usize) -> f32 {
        self.bounds.product[lane] + self.bounds.distance[lane]
    }

    fn update(&mut self) {
        (self.product, self.limit) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for lane in self.of_open() {
            if self.bounds.product[lane] > self.product {
                (self.product, self.lane) = (self.bounds.product[lane], lane as u8);
            }
            self.limit = self.limit.max(self.limit_of(lane));
        }
    }
}

impl<'a> Search<'a> {
    fn new(
        isa: Isa,
        head: Head<'a>,
        x: &'a [f32],
        split: Option<&'a SplitActivations>,
        activations: &'a Activations,
    ) -> Self {
        let nothing = Found {
            bounds: Bounds { product: [0.0; TILE], distance: [0.0; TILE] },
            open: u16::MAX,
            fine: false,
            product: 0.0,
            lane: 0,
            limit: 0.0,
        };
        let mut tiles = vec![nothing; head.sketch.tiles()];
        let missing = TILE * tiles.len() - head.rows.rows();
        if let Some(last) = tiles.last_mut() {
            last.open = u16::MAX >> missing;
        }
        let (known, from, largest) = (Vec::new(), f32::INFINITY, f32::NEG_INFINITY);
        Self { isa, head, x, split, activations, tiles, known, largest, from, bytes: 0 }
    }

    /// Bounds of all rows.
    fn scan(&mut self) {
        let (isa, sketch, x) = (self.isa, self.head.sketch, self.activations);
        let work = TILE * self.tiles.len() * sketch.cols();
        parallel::chunks(&mut self.tiles, TASK, work, |task, tiles| {
            for (i, found) in tiles.iter_mut().enumerate() {
                found.bounds = scan::coarse(isa, sketch.tile(TASK * task + i), x);
                found.update();
            }
        });
        self.bytes += self.tiles.len() * sketch.coarse_bytes();
    }

    /// Reads on until every row is known that can be among the `count` largest, or within so much of the largest.
    fn find(&mut self, count: usize, within: Option<f32>) -> Option<()> {
        // The best of the tiles that seem best.
        let seeds = count + count / 4 + 8;
        let mut best: Vec<usize> = (0..self.tiles.len()).filter(|tile| self.tiles[*tile].open != 0).collect();
        if seeds < best.len() {
            best.select_nth_unstable_by(seeds, |a, b| self.tiles[*b].product.total_cmp(&self.tiles[*a].product));
            best.truncate(seeds);
        }
        let rows: Vec<usize> = best.iter().map(|tile| TILE * tile + usize::from(self.tiles[*tile].lane)).collect();
        self.read(&rows)?;
        let mut logits: Vec<f32> = self.known.iter().map(|(_, logit)| *logit).filter(|x| x.is_finite()).collect();
        if count > logits.len() {
            return None;
        }
        let (_, nth, _) = logits.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
        let mut from = *nth;
        if let Some(within) = within {
            from = from.min(self.largest - within);
        }
        let most = self.tiles.iter().fold(self.largest, |a, tile| a.max(tile.limit));
        let least = from - 1e-6 * (from.abs() + most.abs());
        self.refine(least);
        let tiles = self.tiles.iter().enumerate().filter(|(_, found)| found.limit >= least);
        let rows: Vec<usize> = tiles
            .flat_map(|(tile, found)| {
                let lanes = found.of_open().filter(|lane| found.limit_of(*lane) >= least);
                lanes.map(move |lane| TILE * tile + lane)
            })
            .collect();
        self.read(&rows)?;
        self.from = from;
        Some(())
    }

    /// Reads the fifth bit of every tile in which a logit can be `least` or more.
    fn refine(&mut self, least: f32) {
        let (isa, sketch, x) = (self.isa, self.head.sketch, self.activations);
        let wanted = |found: &Found| found.limit >= least && !found.fine;
        let count = self.tiles.iter().filter(|found| wanted(found)).count();
        parallel::chunks(&mut self.tiles, TASK, count * TILE * sketch.cols(), |task, tiles| {
            for (i, found) in tiles.iter_mut().enumerate().filter(|(_, found)| wanted(found)) {
                found.bounds = scan::fine(isa, sketch.tile(TASK * task + i), x, &found.bounds);
                found.fine = true;
                found.update();
            }
        });
        self.bytes += count * sketch.fine_bytes();
    }

    /// Reads rows in full, those that are not known yet.
    fn read(&mut self, rows: &[usize]) -> Option<()> {
        let mut new = Vec::with_capacity(rows.len());
        for row in rows {
            let found = &mut self.tiles[row / TILE];
            if found.open >> (row % TILE) & 1 == 1 {
                found.open &= !(1 << (row % TILE));
                new.push((*row as u32, 0f32));
            }
        }
        if self.known.len() + new.len() > (self.head.rows.rows() / LIMIT).max(4 * TILE) {
            return None;
        }
        let Self { isa, head, x, split, .. } = *self;
        parallel::chunks(&mut new, ROWS, rows.len() * x.len(), |_, rows| {
            let mut buffer = Vec::new();
            rows.iter_mut()
                .for_each(|(row, logit)| *logit = head.rows.product(isa, *row as usize, x, split, &mut buffer));
        });
        for (row, logit) in &new {
            self.tiles[*row as usize / TILE].update();
            self.largest = if logit.is_finite() { self.largest.max(*logit) } else { self.largest };
        }
        self.bytes += new.len() * head.rows.row_bytes();
        self.known.append(&mut new);
        Some(())
    }

    /// Bounds of the sum of `exp((logit - largest) / temperature)` over the rows that are not known.
    fn rest(&self, share: Share) -> [f64; 2] {
        let mut sums = vec![[0f32; 2]; self.tiles.len().div_ceil(TASK)];
        let (isa, largest, factor) = (self.isa, self.largest, 1.0 / share.temperature);
        let most = self.tiles.iter().fold(f32::NEG_INFINITY, |a, tile| a.max(tile.limit));
        let above = (most - largest) * factor;
        // NaN is no bound either.
        if above.is_nan() || above >= 60.0 {
            return [0.0, f64::INFINITY];
        }
        parallel::chunks(&mut sums, 1, 16 * TILE * self.tiles.len(), |task, sums| {
            let tiles = &self.tiles[task * TASK..self.tiles.len().min((task + 1) * TASK)];
            sums[0] = rest_of(isa, tiles, largest, factor);
        });
        let [least, most] =
            sums.iter().fold([0f64; 2], |a, sums| [a[0] + f64::from(sums[0]), a[1] + f64::from(sums[1])]);
        [least * (1.0 - OF_EXP), most * (1.0 + OF_EXP)]
    }

    /// Whether the known rows that are all there is from their smallest up have the share.
    fn has(&self, share: Share, [_, rest]: [f64; 2]) -> bool {
        let weight = |logit: f32| (f64::from(logit - self.largest) / f64::from(share.temperature)).exp();
        let (mut first, mut all) = (0.0, rest);
        for (_, logit) in self.known.iter().filter(|(_, logit)| logit.is_finite()) {
            let weight = weight(*logit);
            all += weight;
            first += if *logit >= self.from { weight } else { 0.0 };
        }
        first > f64::from(share.of_all) * all * (1.0 + OF_EXP)
    }
}

on_each_isa! {
    fn rest_of(tiles: &[Found], largest: f32, factor: f32) -> [f32; 2] = rest_of_body
}

#[inline(always)]
fn rest_of_body(tiles: &[Found], largest: f32, factor: f32) -> [f32; 2] {
    let mut sums = [[0f32; TILE]; 2];
    let [least, most] = &mut sums;
    for found in tiles {
        for (lane, (least, most)) in least.iter_mut().zip(&mut *most).enumerate() {
            let open = if found.open >> lane & 1 == 1 { 1.0 } else { 0.0 };
            let (product, distance) = (found.bounds.product[lane] - largest, found.bounds.distance[lane]);
            *least += open * exp((product - distance) * factor);
            *most += open * exp((product + distance) * factor);
        }
    }
    sums.map(|sums| sums.iter().sum())
}
