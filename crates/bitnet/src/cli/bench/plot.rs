//! Decode speed over depth, as a picture.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::CliError;
use super::report::{Decode, Report};

/// Width and height of an SVG; a PNG has twice as many pixels each way.
const SIZE: (u32, u32) = (900, 540);
const PNG_SCALE: u32 = 2;

/// The colours of Okabe and Ito, which stay apart for the colour-blind.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Least width of the depth axis.
const LEAST_DEPTH: usize = 64;

/// What is not data.
const GREY: RGBColor = RGBColor(90, 90, 90);

/// A picture that is to be written.
pub struct Plot {
    path: PathBuf,
    format: Format,
    overwrite: bool,
}

#[derive(Clone, Copy)]
enum Format {
    Svg,
    Png,
}

impl Plot {
    /// Checks, before anything is measured, that a picture can be written to `path`.
    ///
    /// # Errors
    /// When the name ends neither in `.svg` nor in `.png`, the folder is not there, or the file is and is to be kept.
    pub fn new(path: &Path, overwrite: bool) -> Result<Self, CliError> {
        let refuse = |why: &str| Err(CliError::Usage(format!("--plot {}: {why}", path.display())));
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let format = match ending.as_deref() {
            Some("svg") => Format::Svg,
            Some("png") => Format::Png,
            _ => return refuse("a name that ends in .svg or .png is needed"),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return refuse("there is no such folder");
        }
        if path.exists() && !overwrite {
            return refuse("the file is there already (--overwrite replaces it)");
        }
        Ok(Self { path: path.to_path_buf(), format, overwrite })
    }

    /// Draws a line for each named report.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, lines: &[(String, Report)]) -> Result<(), CliError> {
        let picture = match self.format {
            Format::Svg => svg(lines),
            Format::Png => png(lines),
        };
        let write = |picture: Vec<u8>| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).create_new(!self.overwrite);
            options.open(&self.path)?.write_all(&picture)
        };
        picture.and_then(write).map_err(|error| CliError::Write { path: self.path.clone(), error })
    }
}

fn svg(lines: &[(String, Report)]) -> io::Result<Vec<u8>> {
    let mut text = String::new();
    draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), lines, 1)?;
    Ok(text.into_bytes())
}

fn png(lines: &[(String, Report)]) -> io::Result<Vec<u8>> {
    let (width, height) = (SIZE.0 * PNG_SCALE, SIZE.1 * PNG_SCALE);
    let mut pixels = vec![0; 3 * (width * height) as usize];
    draw(&BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area(), lines, PNG_SCALE)?;
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

/// Draws the median of each depth with a whisker from the slowest to the fastest repetition. All lengths are times `scale`.
fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, lines: &[(String, Report)], scale: u32) -> io::Result<()> {
    // A font of our own: a bare system has none.
    if register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_err() {
        return Err(io::Error::other("the font cannot be read"));
    }
    chart(area, lines, scale).map_err(|error| io::Error::other(error.to_string()))
}

fn chart<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    lines: &[(String, Report)],
    scale: u32,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let runs = || lines.iter().flat_map(|(_, report)| &report.decode);
    let deepest = runs().map(|run| run.depth).fold(LEAST_DEPTH, usize::max) as f64;
    let fastest = runs().map(|run| run.speed.max).fold(0.0, f64::max);
    let font = |size: u32| ("sans-serif", size * scale).into_font();
    let margin = 0.03 * deepest;
    // Room above the data for the key.
    let highest = (1.1 + 0.06 * lines.len() as f64) * fastest.max(1e-9);

    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption("Decode speed over context depth", font(22).color(&BLACK))
        .margin(16 * scale)
        .x_label_area_size(44 * scale)
        .y_label_area_size(62 * scale)
        .build_cartesian_2d(-margin..deepest + margin, 0.0..highest)?;
    chart
        .configure_mesh()
        .x_desc("tokens in the cache")
        .y_desc("tokens a second")
        .axis_desc_style(font(16).color(&GREY))
        .label_style(font(15).color(&GREY))
        .axis_style(GREY.stroke_width(scale))
        .set_all_tick_mark_size(6 * scale)
        .bold_line_style(BLACK.mix(0.12).stroke_width(scale))
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|depth| format!("{depth:.0}"))
        .y_label_formatter(&|speed| if fastest < 10.0 { format!("{speed:.1}") } else { format!("{speed:.0}") })
        .draw()?;

    for (i, (label, report)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let at = |run: &Decode| (run.depth as f64, run.speed.tokens_per_second);
        let line = LineSeries::new(report.decode.iter().map(at), colour.stroke_width(2 * scale));
        let key = move |(x, y)| Circle::new((x + 10 * scale as i32, y), 4 * scale, colour.filled());
        chart.draw_series(line)?.label(label.as_str()).legend(key);
        chart.draw_series(report.decode.iter().map(|run| {
            let (x, speed) = (run.depth as f64, run.speed);
            let style = colour.stroke_width(2 * scale);
            ErrorBar::new_vertical(x, speed.min, speed.tokens_per_second, speed.max, style.filled(), 10 * scale)
        }))?;
        chart.draw_series(report.decode.iter().map(|run| Circle::new(at(run), 4 * scale, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(6 * scale)
        .legend_area_size(24 * scale)
        .label_font(font(15).color(&BLACK))
        .background_style(WHITE.mix(0.85))
        .draw()?;
    area.present()
}
