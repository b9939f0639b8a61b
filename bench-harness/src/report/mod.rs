//! How results are shown: tables on the terminal, HdrHistogram's own formats, one page.

pub(crate) mod hdr;
pub(crate) mod html;
mod svg;
pub(crate) mod table;
