//! What keeps things from being collected as garbage.

use std::time::{Duration, SystemTime};

use crate::Labels;
use crate::client::{Client, stub};
use crate::content::present;
use crate::error::Error;
use crate::proto::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, Lease, ListRequest, ListResourcesRequest, Resource,
};

/// The leases. Made by [`Client::leases`].
#[derive(Clone, Copy, Debug)]
pub struct Leases<'a>(&'a Client);

/// When a lease ends by itself.
const EXPIRE: &str = "containerd.io/gc.expire";

impl Client {
    /// Leases.
    pub fn leases(&self) -> Leases<'_> {
        Leases(self)
    }
}

impl Leases<'_> {
    /// Makes a lease that ends by itself after `lifetime`, if nobody ends it before. See [`Client::under`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one of this id.
    pub async fn create(&self, id: &str, lifetime: Duration, labels: &Labels) -> Result<Lease, Error> {
        let action = "making the lease";
        let mut labels = labels.clone();
        let end = prost_types::Timestamp::from(SystemTime::now() + lifetime);
        labels.insert(EXPIRE.to_owned(), end.to_string());
        let mut stub = stub!(self.0, leases::leases_client::LeasesClient);
        let answer =
            self.0.call(action, id, stub.create(CreateRequest { id: id.to_owned(), labels })).await?;
        present(action, id, answer.lease)
    }

    /// Ends a lease. With `sync`, what nothing else needs is gone with the answer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn delete(&self, id: &str, sync: bool) -> Result<(), Error> {
        let mut stub = stub!(self.0, leases::leases_client::LeasesClient);
        self.0.call("ending the lease", id, stub.delete(DeleteRequest { id: id.to_owned(), sync })).await
    }

    /// The leases that one of the filters matches, or all.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Lease>, Error> {
        let mut stub = stub!(self.0, leases::leases_client::LeasesClient);
        let request = ListRequest { filters: filters.to_vec() };
        Ok(self.0.call("listing", "leases", stub.list(request)).await?.leases)
    }

    /// Puts a thing that is there already under a lease: `content` by its digest, `snapshots/NAME` by its key.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no such lease.
    pub async fn add(&self, id: &str, r#type: &str, thing: &str) -> Result<(), Error> {
        let resource = Some(Resource { id: thing.to_owned(), r#type: r#type.to_owned() });
        let mut stub = stub!(self.0, leases::leases_client::LeasesClient);
        let request = AddResourceRequest { id: id.to_owned(), resource };
        self.0.call("adding to the lease", id, stub.add_resource(request)).await
    }

    /// What is under a lease.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no such lease.
    pub async fn resources(&self, id: &str) -> Result<Vec<Resource>, Error> {
        let mut stub = stub!(self.0, leases::leases_client::LeasesClient);
        let request = ListResourcesRequest { id: id.to_owned() };
        Ok(self.0.call("listing what is under the lease", id, stub.list_resources(request)).await?.resources)
    }
}
