//! Size against quality, and size against speed, as one SVG picture: a point for each method, and the front of those that
//! nothing smaller beats.

use super::{Row, Sweep};
use crate::error::{Error, Result};
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height, in pixels.
const SIZE: (u32, u32) = (1200, 520);
/// Where nothing was lost at all, a logarithm has no place; it is drawn here.
const KLD_LEAST: f64 = 1e-7;
const FRONT: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const OTHERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const INK: RGBColor = RGBColor(0x22, 0x2b, 0x35);

/// Draws `sweep`.
///
/// # Errors
/// `Refused` where there is nothing to draw.
pub fn svg(sweep: &Sweep) -> Result<String> {
    let mut text = String::new();
    draw(sweep, &mut text).map_err(|error| Error::Refused {
        message: format!("drawing the plot failed: {error}"),
        hint: String::new(),
    })?;
    Ok(text)
}

/// What of a row is drawn: its place, its name, and whether it is on the front.
struct Point {
    x: f64,
    y: f64,
    name: String,
    front: bool,
}

type Drawing<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn draw(sweep: &Sweep, text: &mut String) -> Drawing<()> {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 / 2);
    let point = |row: &Row, y: f64, front: bool| {
        let several = sweep.rows.iter().any(|other| other.format != row.format);
        let name = if several { format!("{} {}", row.format, row.method) } else { row.method.clone() };
        Point { x: row.size_bytes as f64 / f64::from(1 << 20), y, name, front }
    };
    let quality: Vec<Point> =
        sweep.rows.iter().map(|row| point(row, row.kld.max(KLD_LEAST), row.pareto_quality)).collect();
    let speed: Vec<Point> =
        sweep.rows.iter().filter_map(|row| Some(point(row, row.tokens_per_second?, row.pareto_speed))).collect();
    let (low, high) = bounds(&quality, |point| point.y);
    let y = (10_f64.powf(low.log10().floor())..10_f64.powf((high * 1.3).log10().ceil())).log_scale();
    panel(&left, "Quality: lower is better", "mean KL divergence, nats", y, &quality, &|y| format!("{y:.0e}"))?;
    if !speed.is_empty() {
        let (_, high) = bounds(&speed, |point| point.y);
        panel(&right, "Speed: higher is better", "tokens per second", 0.0..high * 1.2, &speed, &|y| format!("{y:.0}"))?;
    }
    root.present()?;
    Ok(())
}

fn bounds(points: &[Point], of: impl Fn(&Point) -> f64) -> (f64, f64) {
    points
        .iter()
        .map(of)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

fn panel<Y>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    caption: &str,
    axis: &str,
    y: Y,
    points: &[Point],
    label: &dyn Fn(&f64) -> String,
) -> Drawing<()>
where
    Y: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let (low, high) = bounds(points, |point| point.x);
    let margin = ((high - low) * 0.12).max(high * 0.02);
    let font = |size: u32| ("sans-serif", size).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, font(20))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d((low - margin).max(0.0)..high + margin, y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(0xe5, 0xe9, 0xee))
        .axis_style(INK)
        .label_style(font(14))
        .axis_desc_style(font(15))
        .x_desc("size, MiB")
        .y_desc(axis)
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|x| if high > 20.0 { format!("{x:.0}") } else { format!("{x:.1}") })
        .y_label_formatter(label)
        .draw()?;
    let front = points.iter().filter(|point| point.front).map(|point| (point.x, point.y));
    chart.draw_series(LineSeries::new(front, FRONT.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| {
        let colour = if point.front { FRONT } else { OTHERS };
        Circle::new((point.x, point.y), 5, colour.filled())
    }))?;
    let place = |point: &Point| chart.backend_coord(&(point.x, point.y));
    let front: Vec<_> = points.iter().filter(|point| point.front).map(place).collect();
    // What a name must not cover: the points, and the line between those of the front.
    let mut taken: Vec<Area> = points.iter().map(|point| Area::around(place(point), 6)).collect();
    for pair in front.windows(2) {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        let steps = ((x1 - x0).abs().max((y1 - y0).abs()) / 4).max(1);
        taken.extend((0..=steps).map(|i| Area::around((x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps), 1)));
    }
    let (base, (width, _)) = (area.get_base_pixel(), area.dim_in_pixel());
    for point in points {
        let (x, y) = place(point);
        let name_width = i32::try_from(point.name.len()).unwrap_or(10) * 8;
        let at = |(dx, dy): (i32, i32)| {
            let left = if dx < 0 { x + dx - name_width } else { x + dx };
            Area { left, right: left + name_width, top: y + dy - 7, bottom: y + dy + 7 }
        };
        let inside =
            |name: &Area| name.left >= base.0 && name.right <= base.0 + i32::try_from(width).unwrap_or(i32::MAX);
        let covered =
            |name: &Area| taken.iter().filter(|other| other.meets(name)).count() + if inside(name) { 0 } else { 100 };
        let around = [(9, -9), (-9, -9), (9, 11), (-9, 11), (11, -24), (-11, -24), (11, 26), (-11, 26)];
        let Some(name) = around.into_iter().map(at).min_by_key(covered) else { continue };
        let style = font(13).pos(Pos::new(HPos::Left, VPos::Center));
        let corner = (name.left - base.0, (name.top + name.bottom) / 2 - base.1);
        area.draw(&Text::new(point.name.clone(), corner, style))?;
        taken.push(name);
    }
    Ok(())
}

/// A part of the picture, in pixels.
struct Area {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Area {
    fn around((x, y): (i32, i32), distance: i32) -> Self {
        Self { left: x - distance, right: x + distance, top: y - distance, bottom: y + distance }
    }

    fn meets(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::tests::row;

    #[test]
    fn every_method_is_a_point_with_its_name() {
        let rows = vec![row("Q2_K", 1 << 20, 0.3, 9.0), row("Q8_0", 4 << 20, 0.0, 4.0)];
        let sweep = Sweep {
            pajamas_version: "0",
            started_at: String::new(),
            hardware: crate::hardware::detect(),
            model: "m".into(),
            name: "m".into(),
            interrupted: false,
            source_bytes: 8 << 20,
            source_precision: "BF16".into(),
            text: None,
            speed_prompt_tokens: 1,
            speed_generated_tokens: 1,
            rows,
            failures: Vec::new(),
        };
        let picture = svg(&sweep).unwrap();
        assert_eq!(picture.matches("<circle").count(), 4);
        for name in ["Q2_K", "Q8_0", "Quality: lower is better", "tokens per second"] {
            assert!(picture.contains(name), "{name}");
        }
    }
}
