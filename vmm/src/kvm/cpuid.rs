//! What a guest CPU says of itself: the host's leaves, filtered, with a topology of one socket whose
//! cores have one thread each. Local APIC ids count from 0.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::{Host, KvmError};

const LEAF_1_ECX_VMX: u32 = 1 << 5;
const LEAF_1_ECX_X2APIC: u32 = 1 << 21;
const LEAF_1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF_1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF_1_EDX_HTT: u32 = 1 << 28;
const AMD_ECX_CMP_LEGACY: u32 = 1 << 1;
const AMD_ECX_SVM: u32 = 1 << 2;
const AMD_ECX_TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Leaves that describe the topology level by level.
const TOPOLOGY: [u32; 2] = [0xB, 0x1F];
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// The leaves of CPU `index` of `cpus`.
///
/// # Errors
/// When there are more leaves than KVM takes.
pub fn for_cpu(host: &Host, index: u32, cpus: u32) -> Result<CpuId, KvmError> {
    let leaves = host.cpuid.as_slice();
    let entries = leaves_for(leaves, index, cpus, host.has_tsc_deadline());
    CpuId::from_entries(&entries).map_err(|_| KvmError::Missing("room for the CPUID leaves"))
}

/// Number of bits of an APIC id that tell the cores of the socket apart.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn set_field(register: &mut u32, shift: u32, bits: u32, value: u32) {
    let mask = ((1u32 << bits) - 1) << shift;
    *register = (*register & !mask) | ((value << shift) & mask);
}

fn leaves_for(
    host: &[kvm_cpuid_entry2],
    index: u32,
    cpus: u32,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let basic_max = host.iter().find(|e| e.function == 0).map_or(0, |e| e.eax);
    let mut leaves: Vec<_> =
        host.iter().filter(|e| !TOPOLOGY.contains(&e.function)).copied().collect();
    for leaf in &mut leaves {
        adapt(leaf, index, cpus, tsc_deadline);
    }
    for function in TOPOLOGY.into_iter().filter(|f| *f <= basic_max) {
        leaves.extend(topology(function, index, cpus));
    }
    leaves
}

fn adapt(leaf: &mut kvm_cpuid_entry2, index: u32, cpus: u32, tsc_deadline: bool) {
    let others = cpus - 1;
    match leaf.function {
        0x1 => {
            set_field(&mut leaf.ebx, 24, 8, index & 0xFF);
            set_field(&mut leaf.ebx, 16, 8, cpus.next_power_of_two().min(128));
            leaf.ecx |= LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_X2APIC;
            leaf.ecx &= !(LEAF_1_ECX_VMX | LEAF_1_ECX_TSC_DEADLINE);
            leaf.ecx |= if tsc_deadline { LEAF_1_ECX_TSC_DEADLINE } else { 0 };
            leaf.edx &= !LEAF_1_EDX_HTT;
            leaf.edx |= if cpus > 1 { LEAF_1_EDX_HTT } else { 0 };
        }
        // Deterministic caches: cores in the socket, and who shares the cache (level 3: all).
        0x4 if leaf.eax & 0x1F != 0 => {
            set_field(&mut leaf.eax, 26, 6, others.min(63));
            share_cache(&mut leaf.eax, others);
        }
        0x8000_0001 => {
            leaf.ecx &= !(AMD_ECX_SVM | AMD_ECX_CMP_LEGACY);
            if cpus > 1 && leaf.ecx & AMD_ECX_TOPOLOGY_EXTENSIONS != 0 {
                leaf.ecx |= AMD_ECX_CMP_LEGACY;
            }
        }
        0x8000_0008 => {
            set_field(&mut leaf.ecx, 0, 8, others.min(255));
            set_field(&mut leaf.ecx, 12, 4, core_bits(cpus));
        }
        0x8000_001D if leaf.eax & 0x1F != 0 => {
            share_cache(&mut leaf.eax, others);
        }
        0x8000_001E => {
            leaf.eax = index;
            leaf.ebx = index & 0xFF;
            leaf.ecx = 0;
        }
        _ => {}
    }
}

/// How many other CPUs share a cache: from level 3 on all of them.
fn share_cache(eax: &mut u32, others: u32) {
    let level = *eax >> 5 & 7;
    set_field(eax, 14, 12, if level >= 3 { others } else { 0 });
}

/// One leaf per level: threads of a core, cores of the socket, and the end.
fn topology(function: u32, index: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |number, kind, shift, count| kvm_cpuid_entry2 {
        function,
        index: number,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: number | kind << 8,
        edx: index,
        ..Default::default()
    };
    [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, core_bits(cpus), cpus), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<kvm_cpuid_entry2> {
        let leaf = |function, index, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        vec![
            leaf(0, 0, 0xD, 0, 0, 0),
            leaf(1, 0, 0x600, 0x0510_0800, LEAF_1_ECX_VMX, LEAF_1_EDX_HTT),
            leaf(4, 0, 0xFC00_4121, 0, 0, 0),
            leaf(4, 3, 0xFC03_C163, 0, 0, 0),
            leaf(4, 4, 0, 0, 0, 0),
            leaf(0xB, 0, 1, 2, 0x100, 5),
            leaf(0x8000_0001, 0, 0, 0, AMD_ECX_SVM | AMD_ECX_TOPOLOGY_EXTENSIONS, 0),
            leaf(0x8000_0008, 0, 0x3028, 0, 0x7007, 0),
        ]
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn each_cpu_has_its_own_apic_id_and_the_topology_counts_them_all() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (128, 7)] {
            for index in 0..cpus {
                let leaves = leaves_for(&host(), index, cpus, true);
                assert_eq!(find(&leaves, 1, 0).ebx >> 24, index);
                assert_eq!(find(&leaves, 0xB, 0).edx, index);
                let cores = find(&leaves, 0xB, 1);
                assert_eq!((cores.eax, cores.ebx, cores.ecx), (bits, cpus, 0x201));
                assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, (cpus - 1) | bits << 12);
            }
        }
        let leaves = leaves_for(&host(), 0, 4, true);
        assert!(leaves.iter().all(|e| e.function != 0x1F), "beyond the highest basic leaf");
        assert_eq!(find(&leaves, 4, 0).eax >> 14 & 0xFFF, 0, "a level 1 cache is a core's own");
        assert_eq!(find(&leaves, 4, 3).eax >> 14 & 0xFFF, 3, "level 3 is everybody's");
        assert_eq!(find(&leaves, 4, 4).eax, 0);
    }

    #[test]
    fn features_are_those_of_a_guest() {
        for tsc_deadline in [false, true] {
            let leaves = leaves_for(&host(), 0, 1, tsc_deadline);
            let one = find(&leaves, 1, 0);
            assert_eq!(one.ecx & LEAF_1_ECX_TSC_DEADLINE != 0, tsc_deadline);
            assert_ne!(one.ecx & LEAF_1_ECX_HYPERVISOR, 0);
            assert_ne!(one.ecx & LEAF_1_ECX_X2APIC, 0);
            assert_eq!(one.ecx & LEAF_1_ECX_VMX, 0);
            assert_eq!(one.edx & LEAF_1_EDX_HTT, 0, "one CPU has no siblings");
            assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & AMD_ECX_SVM, 0);
        }
        let two = leaves_for(&host(), 0, 2, true);
        assert_ne!(find(&two, 1, 0).edx & LEAF_1_EDX_HTT, 0);
        assert_ne!(find(&two, 0x8000_0001, 0).ecx & AMD_ECX_CMP_LEGACY, 0);
    }
}
