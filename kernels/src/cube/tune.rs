//! Which way to make a product is the fastest on a device, found by Burn's tuner, once for each kind of product in a
//! process; a program that turns on CubeCL's `persistence` keeps what was found.

use burn_cubecl::CubeTuneId;
use cubecl::AutotuneKey;
use cubecl::tune::{LocalTuner, Tunable, TunableSet, TuneGroup, local_tuner};
use serde::{Deserialize, Serialize};

use super::launch_products::{Product, launch};
use super::plan::{BLOCK, LANES};
use super::target::{Products, Target};

/// A way to make a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Row by row.
    Rows {
        /// Units that share a block of rows.
        lanes: usize,
        /// Rows of a block, fewer where there are several tokens.
        block: usize,
    },
    /// Tile by tile, of which there are two sizes.
    Tiles {
        /// The smaller one.
        smaller: bool,
    },
}

/// Products that one variant is the fastest for.
#[derive(Hash, Eq, PartialEq, Debug, Clone, Serialize, Deserialize, AutotuneKey)]
struct ProductKey {
    #[autotune(anchor)]
    tokens: usize,
    rows: usize,
    cols: usize,
    /// Matrices in one launch.
    matrices: usize,
    /// With a gate in it.
    gate: bool,
    /// Added to what there is.
    added: bool,
    /// The activations are laid out for tiles, or for four bytes at once, which both can read.
    packed: bool,
    /// What is taken unless another is faster.
    tiles: bool,
}

impl ProductKey {
    fn of(Product { x, matrices, gate, added, .. }: &Product) -> Self {
        let rows = matrices.iter().map(|matrix| matrix.rows).sum();
        let packed = matches!(x.products, Products::Bytes | Products::Tiles);
        let tiles = x.products == Products::Tiles;
        Self::new(x.tokens, rows, x.cols, matrices.len(), gate.is_some(), added.is_some(), packed, tiles)
    }

    fn can_have_tiles(&self) -> bool {
        self.packed && self.matrices == 1 && !self.added && self.tokens > 1
    }
}

/// The variant that always works.
fn first(product: &Product) -> Variant {
    match product.x.products {
        Products::Tiles => Variant::Tiles { smaller: false },
        _ => {
            let Target { lanes, block, .. } = Target::of(&product.x.codes.client);
            Variant::Rows { lanes, block }
        }
    }
}

/// Makes a product in the fastest way, where the device is one to be tuned; what was asked for by name is not.
pub(super) fn fastest(product: Product) {
    static TUNER: LocalTuner<ProductKey, CubeTuneId> = local_tuner!("ternary-products");

    let client = product.x.codes.client.clone();
    if !Target::of(&client).tuned || Target::is_forced() {
        return launch(&product, first(&product));
    }
    let id = CubeTuneId::new(&client, &product.x.codes.device);
    let tunables = TUNER.init(&id, || {
        let rows = TuneGroup::<ProductKey>::new("rows", |key| if key.tiles { 0 } else { 1 });
        let tiles = TuneGroup::<ProductKey>::new("tiles", |key| if key.tiles { 1 } else { 0 });
        let with = |name: &str, variant| {
            Tunable::new(name, move |product: Product| -> Result<(), String> {
                launch(&product, variant);
                Ok(())
            })
        };
        let if_rows = |key: &ProductKey| if !key.tiles || key.packed && key.tokens <= 32 { 0 } else { -1 };
        let if_tiles = |key: &ProductKey| if key.can_have_tiles() { 0 } else { -1 };
        let always = Tunable::new("planned", |product: Product| -> Result<(), String> {
            launch(&product, first(&product));
            Ok(())
        });
        TunableSet::new(ProductKey::of, |_: &ProductKey, product: &Product| product.clone())
            .with(always)
            .with(with("32 lanes", Variant::Rows { lanes: 32, block: 1 }).group(&rows, if_rows))
            .with(with("1 lane", Variant::Rows { lanes: 1, block: 1 }).group(&rows, if_rows))
            .with(with("32 lanes, blocks", Variant::Rows { lanes: 32, block: BLOCK }).group(&rows, if_rows))
            .with(with("8 lanes, blocks", Variant::Rows { lanes: LANES, block: BLOCK }).group(&rows, if_rows))
            .with(with("small tiles", Variant::Tiles { smaller: true }).group(&tiles, if_tiles))
    });
    TUNER.execute(&id, &client, tunables, product);
}
