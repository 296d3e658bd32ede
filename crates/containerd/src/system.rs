//! containerd itself.

use crate::Labels;
use crate::client::{Client, stub};
use crate::content::present;
use crate::error::Error;
use crate::proto::introspection::{Plugin, PluginsRequest};
use crate::proto::namespaces::{
    CreateNamespaceRequest, DeleteNamespaceRequest, GetNamespaceRequest, ListNamespacesRequest, Namespace,
};
use crate::proto::version::VersionResponse;

/// containerd itself: its version, plugins and namespaces. Made by [`Client::system`].
#[derive(Clone, Copy, Debug)]
pub struct System<'a>(&'a Client);

impl Client {
    /// containerd itself.
    pub fn system(&self) -> System<'_> {
        System(self)
    }
}

impl System<'_> {
    /// Which containerd this is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn version(&self) -> Result<VersionResponse, Error> {
        let mut stub = stub!(self.0, version::version_client::VersionClient);
        self.0.call("asking for", "the version", stub.version(())).await
    }

    /// Plugins that one of the filters matches, as `type==io.containerd.snapshotter.v1`; or all.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn plugins(&self, filters: &[String]) -> Result<Vec<Plugin>, Error> {
        let mut stub = stub!(self.0, introspection::introspection_client::IntrospectionClient);
        let request = PluginsRequest { filters: filters.to_vec() };
        Ok(self.0.call("listing", "plugins", stub.plugins(request)).await?.plugins)
    }

    /// The namespace and its labels: defaults such as `containerd.io/defaults/snapshotter`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if nobody made it.
    pub async fn namespace(&self, name: &str) -> Result<Namespace, Error> {
        let action = "looking up the namespace";
        let mut stub = stub!(self.0, namespaces::namespaces_client::NamespacesClient);
        let request = GetNamespaceRequest { name: name.to_owned() };
        let answer = self.0.call(action, name, stub.get(request)).await?;
        present(action, name, answer.namespace)
    }

    /// All namespaces.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        let mut stub = stub!(self.0, namespaces::namespaces_client::NamespacesClient);
        let request = ListNamespacesRequest::default();
        Ok(self.0.call("listing", "namespaces", stub.list(request)).await?.namespaces)
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one.
    pub async fn create_namespace(&self, name: &str, labels: &Labels) -> Result<(), Error> {
        let mut stub = stub!(self.0, namespaces::namespaces_client::NamespacesClient);
        let namespace = Some(Namespace { name: name.to_owned(), labels: labels.clone() });
        let answer = stub.create(CreateNamespaceRequest { namespace });
        self.0.call("making the namespace", name, answer).await.map(drop)
    }

    /// Removes an empty namespace.
    ///
    /// # Errors
    /// [`crate::ErrorKind::FailedPrecondition`] if there is something in it.
    pub async fn delete_namespace(&self, name: &str) -> Result<(), Error> {
        let mut stub = stub!(self.0, namespaces::namespaces_client::NamespacesClient);
        let request = DeleteNamespaceRequest { name: name.to_owned() };
        self.0.call("removing the namespace", name, stub.delete(request)).await
    }
}
