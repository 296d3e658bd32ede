//! Extended attributes of an inode.

use super::{Image, Inode, ReadError, read_at};
use crate::layout::{XATTR_ALIGN, XattrBodyHeader, XattrEntry};
use crate::xattr::{prefix, split_name};

impl<'a> Image<'a> {
    /// The xattrs of an inode, in the order of the names if the image is sound. Behind the
    /// first error there is nothing.
    ///
    /// # Errors
    /// They lie where none can.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs<'a>, ReadError> {
        let body = self.slice(inode.xattr_start(), inode.xattr_len.into(), "xattrs")?;
        if body.is_empty() {
            return Ok(Xattrs { rest: body });
        }
        let header: XattrBodyHeader =
            read_at(body, 0).ok_or(ReadError::Damaged("xattrs without a header"))?;
        if header.shared_count != 0 {
            return Err(ReadError::Unsupported("shared xattrs"));
        }
        Ok(Xattrs { rest: body.get(size_of::<XattrBodyHeader>()..).unwrap_or_default() })
    }

    /// The value of the xattr of this full name.
    ///
    /// # Errors
    /// The xattrs of the inode are damaged before it is found.
    pub fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Option<&'a [u8]>, ReadError> {
        let Ok(wanted) = split_name(name) else { return Ok(None) };
        let mut xattrs = self.xattrs(inode)?;
        while let Some(Stored { namespace, name, value }) = xattrs.advance()? {
            if (namespace, name) == wanted {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// The xattrs of one inode.
#[derive(Clone, Debug)]
pub struct Xattrs<'a> {
    rest: &'a [u8],
}

/// One xattr. Its full name is `prefix` and `suffix`, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xattr<'a> {
    /// The namespace with its dot, or all of a name that is its own namespace (`system.posix_acl_access`).
    pub prefix: &'static [u8],
    /// What follows it.
    pub suffix: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl Xattr<'_> {
    /// The full name.
    pub fn name(&self) -> Vec<u8> {
        [self.prefix, self.suffix].concat()
    }
}

/// One xattr in the form in which it is stored.
struct Stored<'a> {
    namespace: u8,
    /// What follows the namespace in the full name.
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Xattrs<'a> {
    fn advance(&mut self) -> Result<Option<Stored<'a>>, ReadError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let damaged = ReadError::Damaged("an xattr that ends outside of its inode's xattrs");
        let entry: XattrEntry = read_at(self.rest, 0).ok_or(damaged)?;
        let name_end = size_of::<XattrEntry>() + usize::from(entry.name_len);
        let value_end = name_end + usize::from(entry.value_len.get());
        let name = self.rest.get(size_of::<XattrEntry>()..name_end).ok_or(damaged)?;
        let value = self.rest.get(name_end..value_end).ok_or(damaged)?;
        self.rest = self.rest.get(value_end.next_multiple_of(XATTR_ALIGN)..).ok_or(damaged)?;
        Ok(Some(Stored { namespace: entry.namespace, name, value }))
    }
}

impl<'a> Iterator for Xattrs<'a> {
    type Item = Result<Xattr<'a>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance().and_then(|xattr| match xattr {
            None => Ok(None),
            Some(Stored { namespace, name, value }) => {
                let prefix = prefix(namespace).ok_or(ReadError::Unsupported("an unknown xattr namespace"))?;
                Ok(Some(Xattr { prefix, suffix: name, value }))
            }
        });
        if result.is_err() {
            self.rest = &[];
        }
        result.transpose()
    }
}
