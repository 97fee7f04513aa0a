//! Indirect calls: an expression tree of trait objects, evaluated and differentiated.
mod common;

use std::rc::Rc;

trait Expression {
    fn value(&self, x: f64) -> f64;
    fn derivative(&self) -> Rc<dyn Expression>;
    fn size(&self) -> u64;
}

struct Constant(f64);
struct Variable;
struct Sum(Rc<dyn Expression>, Rc<dyn Expression>);
struct Product(Rc<dyn Expression>, Rc<dyn Expression>);

impl Expression for Constant {
    fn value(&self, _: f64) -> f64 {
        self.0
    }
    fn derivative(&self) -> Rc<dyn Expression> {
        Rc::new(Constant(0.0))
    }
    fn size(&self) -> u64 {
        1
    }
}

impl Expression for Variable {
    fn value(&self, x: f64) -> f64 {
        x
    }
    fn derivative(&self) -> Rc<dyn Expression> {
        Rc::new(Constant(1.0))
    }
    fn size(&self) -> u64 {
        1
    }
}

impl Expression for Sum {
    fn value(&self, x: f64) -> f64 {
        self.0.value(x) + self.1.value(x)
    }
    fn derivative(&self) -> Rc<dyn Expression> {
        Rc::new(Sum(self.0.derivative(), self.1.derivative()))
    }
    fn size(&self) -> u64 {
        1 + self.0.size() + self.1.size()
    }
}

impl Expression for Product {
    fn value(&self, x: f64) -> f64 {
        self.0.value(x) * self.1.value(x)
    }
    fn derivative(&self) -> Rc<dyn Expression> {
        let left = Product(self.0.derivative(), self.1.clone());
        let right = Product(self.0.clone(), self.1.derivative());
        Rc::new(Sum(Rc::new(left), Rc::new(right)))
    }
    fn size(&self) -> u64 {
        1 + self.0.size() + self.1.size()
    }
}

fn grow(random: &mut common::Random, depth: u32) -> Rc<dyn Expression> {
    if depth == 0 {
        return match random.below(2) {
            0 => Rc::new(Constant(random.below(100) as f64 / 64.0)),
            _ => Rc::new(Variable),
        };
    }
    let (left, right) = (grow(random, depth - 1), grow(random, depth - 1));
    match random.below(3) {
        0 => Rc::new(Product(left, right)),
        _ => Rc::new(Sum(left, right)),
    }
}

fn main() {
    let mut random = common::Random::new();
    let mut sum = 0;
    for _ in 0..20 {
        let mut expression = grow(&mut random, 8);
        for _ in 0..3 {
            sum = common::mix(sum, expression.size());
            for i in 0..120 {
                sum = common::mix(sum, expression.value(f64::from(i) / 128.0).to_bits());
            }
            if expression.size() < 20_000 {
                expression = expression.derivative();
            }
        }
    }
    common::report(sum);
}
