package plans

import (
	"cmp"
	"slices"
)

// layout places a graph's steps in columns, each step one column after the last of those it needs. Long
// arrows to one step share a lane, which has a place of its own in each column that it passes: nothing is
// drawn over a box.
type layout struct {
	columns  [][]*spot
	boxes    []*spot // by step
	segments []*segment
}

// spot is where a box stands, or where a lane passes a column.
type spot struct {
	step          int // -1 for a lane
	column, order int
	y, height     float64 // of the middle; and of what stands there
	before, after []*spot
}

// segment is a part of arrows, from one spot to another, most often in the next column.
type segment struct {
	from, to *spot
	needs    [][2]int // the arrows that it is part of: from step, to step
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
	l.connect(g)
	l.untangle()
	l.align()
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

// mostLanes bounds the places of lanes: a picture of more is no picture, and its arrows go straight.
const mostLanes = 20_000

// connect makes the arrows, and their lanes.
func (l *layout) connect(g *Graph) {
	lanes := 0
	for to := range g.steps {
		target := l.boxes[to]
		ways := map[*spot]*segment{} // by where they begin: from a lane there is one, to the target
		lane := make(map[int]*spot)
		for _, from := range g.needs[to] {
			at := l.boxes[from]
			for at != target {
				next := target
				if column := at.column + 1; column < target.column && lanes < mostLanes {
					if lane[column] == nil {
						lane[column] = l.add(column, -1, 0)
						lanes++
					}
					next = lane[column]
				}
				if ways[at] == nil {
					ways[at] = l.join(at, next)
				}
				ways[at].needs = append(ways[at].needs, [2]int{from, to})
				at = ways[at].to
			}
		}
	}
}

func (l *layout) join(from, to *spot) *segment {
	s := &segment{from: from, to: to}
	l.segments = append(l.segments, s)
	from.after, to.before = append(from.after, to), append(to.before, from)
	return s
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

// crossings counts the arrows that cross between columns.
func (l *layout) crossings() int {
	count := 0
	for _, column := range l.columns {
		var ends []int // where the arrows end, in the order in which they begin
		for _, p := range column {
			after := make([]int, 0, len(p.after))
			for _, n := range p.after {
				after = append(after, n.order)
			}
			slices.Sort(after)
			ends = append(ends, after...)
		}
		count += inversions(ends)
	}
	return count
}

// inversions counts the pairs that stand in the wrong order, by merging halves; it sorts the numbers.
func inversions(of []int) int {
	if len(of) < 2 {
		return 0
	}
	left, right := slices.Clone(of[:len(of)/2]), of[len(of)/2:]
	count := inversions(left) + inversions(right)
	right = slices.Clone(right)
	for i := range of {
		if len(right) == 0 || len(left) > 0 && left[0] <= right[0] {
			of[i], left = left[0], left[1:]
		} else {
			of[i], right = right[0], right[1:]
			count += len(left)
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
