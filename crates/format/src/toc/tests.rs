mod attributes;
mod chunks;
mod envelope;
mod fixture;
mod hostile;
mod links;
mod names;
mod whiteouts;
