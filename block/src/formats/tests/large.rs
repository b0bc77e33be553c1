//! Disks of 1 TiB.

use super::*;
use crate::{
    conformance::close_all,
    nodes::testing::{on_ring, read, write},
};

const TIB: u64 = 1 << 40;

#[test]
fn disks_of_a_tebibyte() {
    for case in cases(TIB) {
        // Files of a tebibyte are holes, but not on every file system; and the tables of the
        // smallest clusters end before that.
        if ["vdi-static", "vhdx-fixed", "qed-4k", "vmdk-split", "vmdk-split-flat"]
            .contains(&case.name)
        {
            continue;
        }
        let dir = directory();
        let path = dir.path().join("disk.vmdk");
        let (task_case, task_path) = (case.clone(), path.clone());
        let size = on_ring(move |cx| async move {
            let format = task_case.format;
            make_on_host(&cx, &task_case, &task_path).await;
            let disk = open_on_host(&cx, format, &task_path, None, false).await.expect("open");
            let size = disk.info().size;
            assert!((TIB..TIB + (1 << 30)).contains(&size), "{}: {size}", task_case.name);
            for (n, at) in [0, size / 2 / 512 * 512, size - 512].into_iter().enumerate() {
                write(&cx, &disk, at, &[n as u8 + 1; 512]).await.expect("write");
            }
            close_all(Cx::clone(&cx), disk).await.expect("close");
            let disk = open_on_host(&cx, format, &task_path, None, true).await.expect("open");
            let last = read(&cx, &disk, size - 1024, 1024).await.expect("read");
            assert_eq!((last[511], last[512]), (0, 3), "{}", task_case.name);
            close_all(Cx::clone(&cx), disk).await.expect("close");
            size
        });
        let reads = [
            "read -P 1 0 512".to_owned(),
            "read -P 0 512 4096".to_owned(),
            format!("read -P 2 {} 512", size / 2 / 512 * 512),
            format!("read -P 3 {} 512", size - 512),
        ];
        let mut args = vec!["-r", "-f", case.format.name()];
        for command in &reads {
            args.extend(["-c", command]);
        }
        args.push(text(&path));
        let said = qemu("qemu-io", &args);
        assert!(!said.contains("verification failed"), "{}: {said}", case.name);
    }
}
