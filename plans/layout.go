package plans

import (
	"cmp"
	"slices"
)

// layout places a graph's steps in columns, each step one column after the last of those it needs. An
// arrow over several columns has a place of its own in each column that it passes: nothing is drawn over
// a box.
type layout struct {
	columns [][]*spot
	boxes   []*spot  // by step
	arrows  [][]spot // each from a step, through the places it passes, to a step
}

// spot is where a box stands, or where an arrow passes a column.
type spot struct {
	step          int // -1 for an arrow
	column, order int
	y, height     float64 // of the middle; and of what stands there
	before, after []*spot
}

// The room between what stands in one column.
const (
	boxGap   = 22
	arrowGap = 12
)

// newLayout lays a graph out with boxes of the given height. It is the same for the same graph.
func newLayout(g *Graph, height float64) *layout {
	l := &layout{}
	l.place(g, height)
	chains := l.connect(g)
	l.untangle()
	l.align()
	for _, chain := range chains {
		arrow := make([]spot, 0, len(chain))
		for _, p := range chain {
			arrow = append(arrow, *p)
		}
		l.arrows = append(l.arrows, arrow)
	}
	return l
}

func (l *layout) place(g *Graph, height float64) {
	l.boxes = make([]*spot, len(g.steps))
	for column, level := range g.Levels() {
		l.columns = append(l.columns, nil)
		for _, id := range level {
			step := g.index[id]
			l.boxes[step] = l.add(column, step, height)
		}
	}
}

func (l *layout) add(column, step int, height float64) *spot {
	p := &spot{step: step, column: column, order: len(l.columns[column]), height: height}
	l.columns[column] = append(l.columns[column], p)
	return p
}

// connect makes the arrows, and the places where they pass columns.
func (l *layout) connect(g *Graph) (chains [][]*spot) {
	for to := range g.steps {
		for _, from := range g.needs[to] {
			chain := []*spot{l.boxes[from]}
			for column := l.boxes[from].column + 1; column < l.boxes[to].column; column++ {
				chain = append(chain, l.add(column, -1, 0))
			}
			chain = append(chain, l.boxes[to])
			for i := 1; i < len(chain); i++ {
				chain[i-1].after = append(chain[i-1].after, chain[i])
				chain[i].before = append(chain[i].before, chain[i-1])
			}
			chains = append(chains, chain)
		}
	}
	return chains
}

// sweeps is how often the columns are gone through; more of it changes little.
const sweeps = 8

// untangle orders each column by where its neighbours stand, forth and back, and keeps the order in which
// the fewest arrows cross (Sugiyama, Tagawa, Toda 1981).
func (l *layout) untangle() {
	best, fewest := l.orders(), l.crossings()
	for sweep := range sweeps {
		forth := sweep%2 == 0
		for i := range l.columns {
			column := l.columns[i]
			if !forth {
				column = l.columns[len(l.columns)-1-i]
			}
			sortByNeighbours(column, forth)
		}
		if n := l.crossings(); n < fewest {
			best, fewest = l.orders(), n
		}
	}
	for i, order := range best {
		l.columns[i] = order
		numbered(order)
	}
}

func (l *layout) orders() [][]*spot {
	out := make([][]*spot, 0, len(l.columns))
	for _, column := range l.columns {
		out = append(out, slices.Clone(column))
	}
	return out
}

func numbered(column []*spot) {
	for i, p := range column {
		p.order = i
	}
}

func sortByNeighbours(column []*spot, forth bool) {
	middle := make(map[*spot]float64, len(column))
	for _, p := range column {
		neighbours := p.after
		if forth {
			neighbours = p.before
		}
		middle[p] = float64(p.order)
		if len(neighbours) == 0 {
			continue
		}
		sum := 0
		for _, n := range neighbours {
			sum += n.order
		}
		middle[p] = float64(sum) / float64(len(neighbours))
	}
	slices.SortStableFunc(column, func(a, b *spot) int { return cmp.Compare(middle[a], middle[b]) })
	numbered(column)
}

// mostCounted bounds the arrows between two columns whose crossings are counted: the count takes their
// square, and a picture of more is no picture.
const mostCounted = 2000

func (l *layout) crossings() int {
	count := 0
	for _, column := range l.columns {
		var ends [][2]int
		for _, p := range column {
			for _, n := range p.after {
				ends = append(ends, [2]int{p.order, n.order})
			}
		}
		if len(ends) > mostCounted {
			continue
		}
		for i, a := range ends {
			for _, b := range ends[i+1:] {
				if (a[0]-b[0])*(a[1]-b[1]) < 0 {
					count++
				}
			}
		}
	}
	return count
}

// align gives every place its height in the picture: as near to its neighbours' as its column allows.
func (l *layout) align() {
	for _, column := range l.columns {
		y := 0.0
		for i, p := range column {
			if i > 0 {
				y += apart(column[i-1], p)
			}
			p.y = y
		}
	}
	for sweep := range 2 * sweeps {
		for i := range l.columns {
			if sweep%2 == 0 {
				settle(l.columns[i], func(p *spot) []*spot { return p.before })
			} else {
				settle(l.columns[len(l.columns)-1-i], func(p *spot) []*spot { return p.after })
			}
		}
	}
	for _, column := range l.columns {
		settle(column, func(p *spot) []*spot { return append(slices.Clone(p.before), p.after...) })
	}
	l.toTop()
}

// toTop moves everything so that the topmost box begins at 0.
func (l *layout) toTop() {
	top := 0.0
	first := true
	for _, column := range l.columns {
		for _, p := range column {
			if edge := p.y - p.height/2; first || edge < top {
				top, first = edge, false
			}
		}
	}
	for _, column := range l.columns {
		for _, p := range column {
			p.y -= top
		}
	}
}

// apart is how far the middles of two neighbours in a column are at least.
func apart(a, b *spot) float64 {
	gap := float64(boxGap)
	if a.step < 0 && b.step < 0 {
		gap = arrowGap
	}
	return a.height/2 + b.height/2 + gap
}

// settle puts the places of a column as near as can be, in squares, to the middle of their neighbours,
// their order and distance kept: pool adjacent violators (isotonic regression).
func settle(column []*spot, neighbours func(*spot) []*spot) {
	type pool struct{ sum, weight float64 }
	var pools []pool
	var sizes []int
	offset := 0.0
	offsets := make([]float64, len(column))
	for i, p := range column {
		if i > 0 {
			offset += apart(column[i-1], p)
		}
		offsets[i] = offset
		want, weight := wanted(p, neighbours(p))
		pools, sizes = append(pools, pool{(want - offset) * weight, weight}), append(sizes, 1)
		for n := len(pools); n > 1 && pools[n-2].sum/pools[n-2].weight > pools[n-1].sum/pools[n-1].weight; n = len(pools) {
			pools[n-2].sum += pools[n-1].sum
			pools[n-2].weight += pools[n-1].weight
			sizes[n-2] += sizes[n-1]
			pools, sizes = pools[:n-1], sizes[:n-1]
		}
	}
	i := 0
	for n, p := range pools {
		for range sizes[n] {
			column[i].y = p.sum/p.weight + offsets[i]
			i++
		}
	}
}

// wanted is where a place would like to be, and how much: arrows like to be straight.
func wanted(p *spot, neighbours []*spot) (y, weight float64) {
	if len(neighbours) == 0 {
		return p.y, 0.1
	}
	for _, n := range neighbours {
		y += n.y
	}
	if p.step < 0 {
		return y / float64(len(neighbours)), 4
	}
	return y / float64(len(neighbours)), 1
}
