//! What is written is what is read, and the order of adding leaves no trace.

use erofs::reader::Image;
use proptest::prelude::*;

use crate::generate;
use crate::model::{Tree, attributes, read_view};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_reader_sees_the_tree_that_was_written(tree in generate::tree()) {
        let (image, layout) = tree.image();
        prop_assert_eq!(read_view(&image), tree.view());
        let opened = Image::open(&image).unwrap();
        prop_assert_eq!(opened.data_start(), layout.data_start);
        prop_assert_eq!(opened.data_len(), layout.data_len);
        prop_assert_eq!(opened.inodes(), layout.inodes);
    }

    #[test]
    fn the_order_of_adding_does_not_matter(
        (tree, entries) in generate::tree().prop_flat_map(|tree| {
            let entries: Vec<_> = (0..tree.nodes.len())
                .flat_map(|i| (0..tree.nodes[i].names.len()).map(move |j| (i, j)))
                .collect();
            (Just(tree), Just(entries).prop_shuffle())
        }),
    ) {
        let (image, layout) = tree.image();
        let (shuffled, shuffled_layout) = tree.image_by(&entries);
        prop_assert!(image == shuffled, "the images differ");
        prop_assert_eq!(layout, shuffled_layout);
    }
}

#[test]
fn an_empty_tree_is_an_image_without_data_area() {
    let (image, layout) = Tree::new().image();
    assert_eq!(layout.data_len, 0);
    assert_eq!(layout.inodes, 1);
    assert_eq!(image.len(), 8192);
    assert_eq!(read_view(&image), Tree::new().view());
}

#[test]
fn a_directory_may_have_200_000_entries() {
    let mut tree = Tree::new();
    let directory = tree.add(None, b"many", attributes(0o755), erofs::Content::Directory);
    for i in 0..200_000 {
        tree.add(Some(directory), format!("entry-{i}").as_bytes(), attributes(0o644), erofs::Content::Fifo);
    }
    let (image, layout) = tree.image();
    assert_eq!(layout.inodes, 200_002);
    let opened = Image::open(&image).unwrap();
    let root = opened.inode(opened.root()).unwrap();
    let many = opened.inode(opened.lookup(&root, b"many").unwrap().unwrap()).unwrap();
    assert_eq!(opened.read_dir(&many, 0).unwrap().count(), 200_002);
    for i in (0..200_000).step_by(97) {
        let nid = opened.lookup(&many, format!("entry-{i}").as_bytes()).unwrap().unwrap();
        assert_eq!(opened.inode(nid).unwrap().mode, 0o010_644);
    }
    assert_eq!(opened.lookup(&many, b"entry-200000"), Ok(None));
}
