//! Names of images.

use prost_types::FieldMask;

use crate::client::{Client, stub};
use crate::content::present;
use crate::error::Error;
use crate::proto::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};

/// The image store. Made by [`Client::images`].
#[derive(Clone, Copy, Debug)]
pub struct Images<'a>(&'a Client);

impl Client {
    /// Names of images.
    pub fn images(&self) -> Images<'_> {
        Images(self)
    }
}

impl Images<'_> {
    /// Looks an image up by its full name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn get(&self, name: &str) -> Result<Image, Error> {
        let action = "looking up the image";
        let mut stub = stub!(self.0, images::images_client::ImagesClient);
        let answer = self.0.call(action, name, stub.get(GetImageRequest { name: name.to_owned() })).await?;
        present(action, name, answer.image)
    }

    /// The images that one of the filters matches, or all.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Image>, Error> {
        let mut stub = stub!(self.0, images::images_client::ImagesClient);
        let request = ListImagesRequest { filters: filters.to_vec() };
        Ok(self.0.call("listing", "images", stub.list(request)).await?.images)
    }

    /// Gives the image its name; what had it before has it no more. Labels are added to those that the name has.
    ///
    /// # Errors
    /// When containerd refuses.
    pub async fn put(&self, image: Image) -> Result<Image, Error> {
        let action = "naming the image";
        let name = image.name.clone();
        let mut stub = stub!(self.0, images::images_client::ImagesClient);
        let request = CreateImageRequest { image: Some(image.clone()) };
        match self.0.call(action, &name, stub.create(request)).await {
            Err(error) if error.is_already_exists() => {}
            other => return present(action, &name, other?.image),
        }
        let labels = image.labels.keys().map(|label| format!("labels.{label}"));
        let paths = std::iter::once("target".to_owned()).chain(labels).collect();
        let update_mask = Some(FieldMask { paths });
        let request = UpdateImageRequest { image: Some(image), update_mask };
        let answer = self.0.call(action, &name, stub.update(request)).await?;
        present(action, &name, answer.image)
    }

    /// Takes the name away. With `sync`, what nothing else needs is gone with the answer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if there is none.
    pub async fn delete(&self, name: &str, sync: bool) -> Result<(), Error> {
        let mut stub = stub!(self.0, images::images_client::ImagesClient);
        let request = DeleteImageRequest { name: name.to_owned(), sync };
        self.0.call("removing the image", name, stub.delete(request)).await
    }
}
