//! From the trees of a file to a [`Forest`]: checked, and laid out.

use super::forest::{CategorySet, Forest, IN_SET, Node, Oblivious, Precision, Walked};
use super::slots::LOWEST;

/// A tree as a file has it: nodes in any order, the first one on top.
#[derive(Debug, Default)]
pub struct SourceTree {
    pub nodes: Vec<SourceNode>,
    pub output: usize,
}

#[derive(Debug, Clone, Copy)]
pub enum SourceNode {
    Leaf(f64),
    /// A slot above the threshold goes right.
    Number {
        slot: u32,
        threshold: f64,
        left: usize,
        right: usize,
    },
    /// A category of the set goes left.
    Category {
        slot: u32,
        set: usize,
        left: usize,
        right: usize,
    },
}

/// A tree whose levels ask one question each.
#[derive(Debug)]
pub struct SourceOblivious {
    /// (slot, threshold), the one for the last bit of the leaf's number first.
    pub splits: Vec<(u32, f64)>,
    /// Leaf by leaf one value an output.
    pub leaves: Vec<f64>,
}

#[derive(Debug)]
pub struct ForestBuilder {
    forest: Forest,
}

/// Levels of a tree that is not walked.
const OBLIVIOUS_DEPTH_MAX: usize = 24;

impl ForestBuilder {
    /// `start`: what the sums begin with, one an output.
    pub fn new(start: Vec<f64>, precision: Precision) -> Self {
        let outputs = start.len();
        let forest = Forest {
            outputs,
            width: 0,
            precision,
            start,
            nodes: Vec::new(),
            sets: Vec::new(),
            walked: Vec::new(),
            splits: Vec::new(),
            oblivious: Vec::new(),
            leaves: Vec::new(),
            scale: 1.0,
            bias: vec![0.0; outputs],
        };
        ForestBuilder { forest }
    }

    /// The sums are multiplied and added to at the end.
    pub fn scaled(&mut self, scale: f64, bias: Vec<f64>) {
        (self.forest.scale, self.forest.bias) = (scale, bias);
    }

    pub fn add_set(&mut self, set: CategorySet) -> usize {
        self.forest.sets.push(set);
        self.forest.sets.len() - 1
    }

    /// # Errors
    /// What is wrong with the tree: a child that is not there, a node with two parents, a threshold that is no number.
    pub fn add_tree(&mut self, tree: &SourceTree) -> Result<(), String> {
        if tree.output >= self.forest.outputs {
            return Err(format!("it adds to output {}, and there are {}", tree.output, self.forest.outputs));
        }
        let nodes = &mut self.forest.nodes;
        let root = place(nodes, 1)?;
        let mut walked = Walked { root, depth: 0, depth_min: u32::MAX, output: tree.output as u32, has_sets: false };
        // By levels: what is visited together stands together.
        let mut level = vec![(0, root)];
        let mut seen = 0;
        for depth in 0.. {
            let mut next = Vec::new();
            for (source, position) in level {
                let node = tree.nodes.get(source).ok_or_else(|| format!("node {source} is not there"))?;
                seen += 1;
                if seen > tree.nodes.len() {
                    return Err("its nodes do not make a tree".to_owned());
                }
                let (slot, threshold, left, right) = match *node {
                    SourceNode::Leaf(value) => {
                        if !value.is_finite() {
                            return Err(format!("leaf {source} has the value {value}"));
                        }
                        nodes[position as usize] = Node { threshold: value, left: position, slot: LOWEST };
                        walked.depth = walked.depth.max(depth);
                        walked.depth_min = walked.depth_min.min(depth);
                        continue;
                    }
                    SourceNode::Number { slot, threshold, left, right } if !threshold.is_nan() => {
                        (slot, threshold.min(f64::MAX), left, right)
                    }
                    SourceNode::Number { .. } => return Err(format!("node {source} compares with NaN")),
                    SourceNode::Category { slot, set, left, right } => {
                        walked.has_sets = true;
                        (slot | IN_SET, set as f64, left, right)
                    }
                };
                let children = place(nodes, 2)?;
                nodes[position as usize] = Node { threshold, left: children, slot };
                next.extend([(left, children), (right, children + 1)]);
            }
            if next.is_empty() {
                break;
            }
            level = next;
        }
        self.forest.walked.push(walked);
        Ok(())
    }

    /// # Errors
    /// Leaves that are not as many as the levels give.
    pub fn add_oblivious(&mut self, tree: &SourceOblivious) -> Result<(), String> {
        let depth = tree.splits.len();
        let wanted = (depth <= OBLIVIOUS_DEPTH_MAX).then(|| self.forest.outputs << depth);
        if wanted != Some(tree.leaves.len()) {
            return Err(format!("it has {depth} splits and {} values in leaves", tree.leaves.len()));
        }
        if let Some(value) = tree.leaves.iter().find(|value| !value.is_finite()) {
            return Err(format!("a leaf has the value {value}"));
        }
        if tree.splits.iter().any(|(_, threshold)| threshold.is_nan()) {
            return Err("a split compares with NaN".to_owned());
        }
        let start = self.forest.splits.len() as u32;
        self.forest.splits.extend_from_slice(&tree.splits);
        let splits = start..self.forest.splits.len() as u32;
        self.forest.oblivious.push(Oblivious { splits, leaves: self.forest.leaves.len() as u32 });
        self.forest.leaves.extend_from_slice(&tree.leaves);
        Ok(())
    }

    /// `width`: slots of a row.
    ///
    /// # Panics
    /// If a node leads out of its tree, or reads a slot that there is not: walks go by that without looking.
    pub fn build(mut self, width: usize) -> Forest {
        let nodes = &self.forest.nodes;
        let is_within = |node: &Node| match node.slot {
            LOWEST => (node.left as usize) < nodes.len(),
            slot => node.left as usize + 1 < nodes.len() && ((slot & !IN_SET) as usize) < width,
        };
        assert!(nodes.iter().all(is_within), "trees are placed node by node, and their slots are those of the model");
        self.forest.width = width;
        self.forest
    }
}

/// Makes room for nodes that stand side by side.
fn place(nodes: &mut Vec<Node>, count: usize) -> Result<u32, String> {
    let first = u32::try_from(nodes.len()).map_err(|_| "there are too many nodes".to_owned())?;
    nodes.resize(nodes.len() + count, Node { threshold: 0.0, left: first, slot: LOWEST });
    Ok(first)
}
