//! Containers, and what runs in them.

use crate::client::{Client, refused, stub};
use crate::content::present;
use crate::error::Error;
use crate::proto::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
};
use crate::proto::process::{Process, ProcessInfo};
use crate::proto::tasks::{
    CloseIoRequest, CreateTaskRequest, DeleteResponse, DeleteTaskRequest, GetRequest, KillRequest,
    ListPidsRequest, ResizePtyRequest, StartRequest, WaitRequest, WaitResponse,
};

/// The type of a container's [`Container::spec`], whose value is the JSON of an OCI runtime specification.
pub const OCI_SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Containers as they are described. Made by [`Client::containers`].
#[derive(Clone, Copy, Debug)]
pub struct Containers<'a>(&'a Client);

/// Containers as they run. Made by [`Client::tasks`].
#[derive(Clone, Copy, Debug)]
pub struct Tasks<'a>(&'a Client);

impl Client {
    /// Containers as they are described.
    pub fn containers(&self) -> Containers<'_> {
        Containers(self)
    }

    /// Containers as they run.
    pub fn tasks(&self) -> Tasks<'_> {
        Tasks(self)
    }
}

impl Containers<'_> {
    /// Looks a container up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn get(&self, id: &str) -> Result<Container, Error> {
        let action = "looking up the container";
        let mut stub = stub!(self.0, containers::containers_client::ContainersClient);
        let answer = self.0.call(action, id, stub.get(GetContainerRequest { id: id.to_owned() })).await?;
        present(action, id, answer.container)
    }

    /// The containers that one of the filters matches, or all.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Container>, Error> {
        let mut stub = stub!(self.0, containers::containers_client::ContainersClient);
        let request = ListContainersRequest { filters: filters.to_vec() };
        Ok(self.0.call("listing", "containers", stub.list(request)).await?.containers)
    }

    /// Adds a container. Its runtime and its spec are needed; [`OCI_SPEC_TYPE`] is the type of the latter.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one of this id.
    pub async fn create(&self, container: Container) -> Result<Container, Error> {
        let (action, id) = ("making the container", container.id.clone());
        let mut stub = stub!(self.0, containers::containers_client::ContainersClient);
        let request = CreateContainerRequest { container: Some(container) };
        let answer = self.0.call(action, &id, stub.create(request)).await?;
        present(action, &id, answer.container)
    }

    /// Removes a container. Its task and its snapshot are others' to remove.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn delete(&self, id: &str) -> Result<(), Error> {
        let mut stub = stub!(self.0, containers::containers_client::ContainersClient);
        let request = DeleteContainerRequest { id: id.to_owned() };
        self.0.call("removing the container", id, stub.delete(request)).await
    }
}

impl Tasks<'_> {
    /// Makes a task: mounts its root file system, and makes its process, which waits for [`Tasks::start`]. Returns the
    /// process' number on the host. Named pipes must be opened by their other side meanwhile.
    ///
    /// # Errors
    /// [`crate::ErrorKind::AlreadyExists`] if there is one; when the runtime refuses.
    pub async fn create(&self, task: CreateTaskRequest) -> Result<u32, Error> {
        let id = task.container_id.clone();
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        Ok(self.0.call("making a task of the container", &id, stub.create(task)).await?.pid)
    }

    /// Starts the process of a task.
    ///
    /// # Errors
    /// When the runtime cannot start it, as for a program that is not there.
    pub async fn start(&self, container: &str) -> Result<u32, Error> {
        let request = StartRequest { container_id: container.to_owned(), ..StartRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        Ok(self.0.call("starting the task", container, stub.start(request)).await?.pid)
    }

    /// Awaits the end of the task's process, however long that takes: the only call without a deadline.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task.
    pub async fn wait(&self, container: &str) -> Result<WaitResponse, Error> {
        let request = WaitRequest { container_id: container.to_owned(), ..WaitRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        let answer = stub.wait(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| refused("waiting for the end of the task", container, status))
    }

    /// Sends a signal, to all processes of the container or to the first one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task, or it has ended.
    pub async fn kill(&self, container: &str, signal: u32, all: bool) -> Result<(), Error> {
        let request =
            KillRequest { container_id: container.to_owned(), signal, all, ..KillRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        self.0.call("sending a signal to the task", container, stub.kill(request)).await
    }

    /// Removes a task that has ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::FailedPrecondition`] if it runs; [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn delete(&self, container: &str) -> Result<DeleteResponse, Error> {
        let request = DeleteTaskRequest { container_id: container.to_owned() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        self.0.call("removing the task", container, stub.delete(request)).await
    }

    /// Describes the process of a task.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task.
    pub async fn get(&self, container: &str) -> Result<Process, Error> {
        let action = "looking up the task";
        let request = GetRequest { container_id: container.to_owned(), ..GetRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        let answer = self.0.call(action, container, stub.get(request)).await?;
        present(action, container, answer.process)
    }

    /// The processes of a task.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task.
    pub async fn pids(&self, container: &str) -> Result<Vec<ProcessInfo>, Error> {
        let request = ListPidsRequest { container_id: container.to_owned() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        Ok(self.0.call("listing the processes of", container, stub.list_pids(request)).await?.processes)
    }

    /// Sets the size of the task's terminal, in characters.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task.
    pub async fn resize(&self, container: &str, width: u32, height: u32) -> Result<(), Error> {
        let container_id = container.to_owned();
        let request = ResizePtyRequest { container_id, width, height, ..ResizePtyRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        self.0.call("resizing the terminal of", container, stub.resize_pty(request)).await
    }

    /// Closes the standard input of the task.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is no task.
    pub async fn close_stdin(&self, container: &str) -> Result<(), Error> {
        let container_id = container.to_owned();
        let request = CloseIoRequest { container_id, stdin: true, ..CloseIoRequest::default() };
        let mut stub = stub!(self.0, tasks::tasks_client::TasksClient);
        self.0.call("closing the standard input of", container, stub.close_io(request)).await
    }
}
