//! Deep work paid with fuel. minijinja charges an operator for the values it makes, but not for walking values
//! that are large only when unfolded (`x = [x, x]`, forty times) or endless (a namespace that holds itself):
//! comparing, printing or joining such a value hangs or exhausts memory at the price of one instruction.
//!
//!   compiled instructions -> guarded(): before each instruction that may walk its operands, a call of a
//!   function below, which charges their unfolded size and hands them back -> the machine runs the result
//!
//! Names of these functions begin with a space: no template can spell them.

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{DynObject, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::sync::Arc;

/// Prices in units; a unit of fuel is 64 of them, as in minijinja.
const NODE: u64 = 16;
const SLOT: u64 = 32;
const UNITS_PER_FUEL: u64 = 64;
/// Shorter texts cost nothing extra to compare.
const SHORT: usize = 64;

/// Filters and methods that look at no more than the first level of what they are applied to.
const SHALLOW_FILTERS: [&str; 8] = ["length", "count", "first", "last", "default", "d", "tojson", "items"];
const SHALLOW_METHODS: [&str; 4] = ["get", "items", "keys", "values"];
/// Tests that ask only for the kind of a value.
const KIND_TESTS: [&str; 16] = [
    "defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "int",
    "float", "boolean", "true", "false", "callable", "filter",
];

/// What a guard charges for; its index in `NAMES` is its discriminant.
#[derive(Clone, Copy, Debug)]
enum Guard {
    /// All of every operand that is no scalar.
    Deep = 0,
    /// The same, but nothing for the first one, unless reaching its items is work.
    AllButFirst = 1,
    /// Texts too: the two sides of a comparison.
    Compare = 2,
    /// The items of two sequences.
    Add = 3,
    /// The value that a namespace takes, which may hold no namespace.
    Set = 4,
    /// As Deep, for calls whose number of arguments is known only when they run.
    Spread = 5,
}

const NAMES: [&str; 6] = [" deep", " all but first", " compare", " add", " set", " spread"];

impl Object for Guard {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State, args: &[Value]) -> Result<Value, Error> {
        run(**self, state, args.to_vec())
    }
}

/// The functions that `guarded` code calls.
pub fn functions() -> [(&'static str, Value); 6] {
    use Guard::*;
    [Deep, AllButFirst, Compare, Add, Set, Spread]
        .map(|guard| (NAMES[guard as usize], Value::from_object(guard)))
}

/// The guard of an instruction and how many operands it takes; no number: they are counted on the stack.
fn guard_of(instruction: &Instruction) -> Option<(Guard, Option<u16>)> {
    use Instruction::*;
    let first_is_free = |free: bool| if free { Guard::AllButFirst } else { Guard::Deep };
    let (guard, count) = match instruction {
        Emit => (Guard::Deep, Some(1)),
        StringConcat | GetItem => (Guard::Deep, Some(2)),
        Eq | Ne | Gt | Gte | Lt | Lte | In | CompareAndPreserve(_) => (Guard::Compare, Some(2)),
        Add => (Guard::Add, Some(2)),
        SetAttr(_) => (Guard::Set, Some(2)),
        // Keys are hashed and compared; the values come along.
        BuildMap(pairs) => (Guard::Deep, u16::try_from(pairs * 2).ok()),
        ApplyFilter(name, count, _) => (first_is_free(SHALLOW_FILTERS.contains(name)), *count),
        PerformTest(name, _, _) if KIND_TESTS.contains(name) => return None,
        PerformTest(_, count, _) | CallFunction(_, count) | CallObject(count) => (Guard::Deep, *count),
        CallMethod(name, count) => (first_is_free(SHALLOW_METHODS.contains(name)), *count),
        _ => return None,
    };
    match (guard, count) {
        (_, Some(0)) => None,
        (Guard::AllButFirst | Guard::Deep, None) => Some((Guard::Spread, None)),
        guarded => Some(guarded),
    }
}

/// The same program with its guards.
pub fn guarded<'a>(program: &Instructions<'a>) -> Instructions<'a> {
    let mut out = Instructions::new(program.name(), program.source());
    let mut moved = Vec::new();
    let mut at = 0;
    while let Some(instruction) = program.get(at) {
        let line = program.get_line(at).and_then(|line| u16::try_from(line).ok());
        let mut add = |instruction| match line {
            Some(line) => out.add_with_line(instruction, line),
            None => out.add(instruction),
        };
        let (before, count) = guard_of(instruction).map_or((None, None), |(g, n)| (Some(g), n));
        let mut first = None;
        if let Some(guard) = before {
            first = Some(add(Instruction::CallFunction(NAMES[guard as usize], count)));
            match count {
                Some(1) => {}
                Some(n) => drop(add(Instruction::UnpackList(n.into()))),
                None => drop(add(Instruction::UnpackLists(1))),
            }
        }
        let own = add(instruction.clone());
        moved.push(first.unwrap_or(own));
        at += 1;
    }
    moved.push((0..).find(|&at| out.get(at).is_none()).unwrap_or(0));
    retarget(&mut out, &moved);
    out
}

/// Points the jumps, whose targets are still those of the program without guards, to where these went.
fn retarget(program: &mut Instructions, moved: &[u32]) {
    use Instruction::*;
    let mut at = 0;
    while let Some(instruction) = program.get_mut(at) {
        if let Iterate(to) | Jump(to) | JumpIfFalse(to) | JumpIfFalseOrPop(to) | JumpIfTrueOrPop(to)
        | BuildMacro(_, to, _) = instruction
        {
            *to = moved.get(*to as usize).copied().unwrap_or(u32::MAX);
        }
        at += 1;
    }
}

fn run(guard: Guard, state: &State, mut args: Vec<Value>) -> Result<Value, Error> {
    let mut meter = Meter { state, units: 0, bytes: true };
    match guard {
        Guard::Deep | Guard::Spread => args.iter().try_for_each(|value| meter.walk(value))?,
        Guard::AllButFirst => {
            let lazy = args[0].as_object().is_some_and(|object| object.repr() == ObjectRepr::Iterable);
            args[usize::from(!lazy)..].iter().try_for_each(|value| meter.walk(value))?;
        }
        Guard::Compare => meter.comparison(&args[0], &args[1])?,
        Guard::Add => meter.addition(&mut args)?,
        Guard::Set => {
            meter.bytes = false;
            meter.walk(&args[0])?;
            refuse_namespaces(&args[0])?;
        }
    }
    meter.settle()?;
    match guard {
        Guard::Spread => {}
        _ if args.len() == 1 => return Ok(args.remove(0)),
        _ => args.reverse(),
    }
    Ok(Value::from(args))
}

struct Meter<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    units: u64,
    bytes: bool,
}

impl Meter<'_, '_, '_> {
    fn charge(&mut self, units: u64) -> Result<(), Error> {
        self.units = self.units.saturating_add(units);
        if self.units >= 1024 * UNITS_PER_FUEL { self.settle() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<(), Error> {
        let fuel = self.units / UNITS_PER_FUEL;
        self.units %= UNITS_PER_FUEL;
        self.state.consume_fuel(fuel)
    }

    /// Charges what a value holds, at each place that it is seen from; scalars are free.
    fn walk(&mut self, value: &Value) -> Result<(), Error> {
        let mut pending: Vec<DynObject> = value.as_object().cloned().into_iter().collect();
        while let Some(object) = pending.pop() {
            let is_map = object.repr() == ObjectRepr::Map;
            let Some(items) = object.try_iter().filter(|_| object.repr() != ObjectRepr::Plain) else {
                continue;
            };
            for item in items {
                if is_map {
                    if let Some(inner) = object.get_value(&item) {
                        self.visit(inner, &mut pending)?;
                    }
                }
                self.visit(item, &mut pending)?;
            }
        }
        Ok(())
    }

    fn visit(&mut self, value: Value, pending: &mut Vec<DynObject>) -> Result<(), Error> {
        let length = if self.bytes { value.as_str().map_or(0, str::len) } else { 0 };
        self.charge(NODE + length as u64)?;
        pending.extend(value.as_object().cloned());
        Ok(())
    }

    fn comparison(&mut self, a: &Value, b: &Value) -> Result<(), Error> {
        if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
            let shorter = a.len().min(b.len());
            return self.charge(if shorter > SHORT { shorter as u64 } else { 0 });
        }
        let scalar = |v: &Value| v.as_object().is_none() && v.as_str().is_none_or(|s| s.len() <= SHORT);
        if scalar(a) || scalar(b) {
            return Ok(());
        }
        self.walk(a)?;
        self.walk(b)
    }

    /// The machine joins sequences lazily, and copies them once the joints nest deeply. Here a lazy side is
    /// copied at once: what is paid is what is done, and joints never nest.
    fn addition(&mut self, args: &mut [Value]) -> Result<(), Error> {
        let is_sequence = |v: &Value| matches!(v.kind(), ValueKind::Seq | ValueKind::Iterable);
        if !args.iter().all(is_sequence) {
            return Ok(());
        }
        for value in args {
            if value.kind() == ValueKind::Seq {
                self.charge((value.len().unwrap_or(0) as u64).saturating_mul(SLOT))?;
                continue;
            }
            let mut items = Vec::new();
            for item in value.try_iter()? {
                self.charge(SLOT)?;
                items.push(item);
            }
            *value = Value::from(items);
        }
        Ok(())
    }
}

/// A namespace inside a namespace could hold itself and would never be freed. Called after `walk`, whose price
/// bounds the time.
fn refuse_namespaces(value: &Value) -> Result<(), Error> {
    let mut pending: Vec<DynObject> = value.as_object().cloned().into_iter().collect();
    while let Some(object) = pending.pop() {
        if ["::Namespace", "::Macro", "::Loop"].iter().any(|name| object.type_name().ends_with(name)) {
            let what = "a namespace cannot keep a namespace, a macro or a loop";
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        let is_map = object.repr() == ObjectRepr::Map;
        for item in object.try_iter().into_iter().flatten() {
            if is_map {
                pending.extend(object.get_value(&item).and_then(|inner| inner.as_object().cloned()));
            }
            pending.extend(item.as_object().cloned());
        }
    }
    Ok(())
}
