//! Actors that are one another's mirror image.
//!
//! **Models** vCPUs of one VM that run the same program: what one does in a state another could do in the state with the two
//! swapped. Of all states that are one another's permutations only one is kept, the one whose numbers of each group are in
//! order. **Leaves out** symmetry of pages and of tag values.
//!
//! **Keeps**: a vCPU's registers and its place in its program move together; nothing else in the host names a vCPU, but the
//! ledger's memory of who wrote, which decides nothing.

use tagvisor_host::{GuestOp, Host, Op, Part, VcpuId};

use crate::actor::Actor;

/// The vCPU of an actor that is nothing but one.
fn vcpu_of(actor: &Actor) -> Option<VcpuId> {
    let mut vcpus = actor.ops.iter().map(|op| match op {
        Op::Guest(vcpu, _) => Some(*vcpu),
        _ => None,
    });
    let first = vcpus.next()??;
    vcpus.all(|vcpu| vcpu == Some(first)).then_some(first)
}

fn program(actor: &Actor) -> impl Iterator<Item = Option<&GuestOp>> {
    actor.ops.iter().map(|op| match op {
        Op::Guest(_, op) => Some(op),
        _ => None,
    })
}

/// A group of actors, in order, with their vCPUs.
pub(crate) type Group = Vec<(usize, VcpuId)>;

/// Does any actor draw random tags? Then vCPUs differ by what they will draw.
pub(crate) fn draws(actors: &[Actor]) -> bool {
    let drawn = |op: &Op| matches!(op, Op::Guest(_, GuestOp::Irg { .. }));
    actors.iter().any(|actor| actor.ops.iter().any(drawn))
}

/// Groups of two and more that start alike and do the same.
pub(crate) fn groups(start: &Host, actors: &[Actor]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (i, actor) in actors.iter().enumerate() {
        let Some(vcpu) = vcpu_of(actor) else { continue };
        let alike = |group: &&mut Group| {
            let (other, other_vcpu) = group[0];
            let same_program = program(&actors[other]).eq(program(actor)) && actors[other].forever == actor.forever;
            let taken = group.iter().any(|(_, known)| *known == vcpu);
            same_program
                && !taken
                && other_vcpu.vm == vcpu.vm
                && start.part(Part::Vcpu(other_vcpu)) == start.part(Part::Vcpu(vcpu))
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push((i, vcpu)),
            None => groups.push(vec![(i, vcpu)]),
        }
    }
    // A vCPU that two actors run as is nobody's mirror image.
    let shared = |vcpu: VcpuId| actors.iter().filter(|actor| vcpu_of(actor) == Some(vcpu)).count() > 1;
    groups.retain(|group| group.len() > 1 && !group.iter().any(|(_, vcpu)| shared(*vcpu)));
    groups
}
