//! The `tracing` layer that turns events into log records.

use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{levels, queue};

/// Sends the crate's events to Python's `logging`.
pub struct ToPython;

/// The text of an event or a span for `logging`: the message, then `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string does not fail.
        let _infallible = if field.name() == "message" {
            self.0.insert_str(0, &format!("{value:?}"));
            Ok(())
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
    }
}

/// The fields of a span, kept while it is open.
struct Fields(String);

/// Excludes the watchdog, which reports to its logger itself, with a stack.
fn is_wanted(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("ferroloop")
        && metadata.target() != "ferroloop::watchdog"
        && *metadata.level() <= levels::filter()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ToPython {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(levels::filter())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut text = Text::default();
        attributes.record(&mut text);
        span.extensions_mut().insert(Fields(text.0));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut text = Text::default();
        values.record(&mut text);
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            fields.0.push_str(&text.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let mut spans = String::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<Fields>().map_or("", |fields| fields.0.trim_start());
            spans.push_str(span.name());
            if !fields.is_empty() {
                spans.push('{');
                spans.push_str(fields);
                spans.push('}');
            }
            spans.push_str(": ");
        }
        spans.push_str(&text.0);
        queue::push(event.metadata(), spans);
    }
}
