package providers

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the checksum of a block's data.
func Sum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// NewBlock is a block with its checksum.
func NewBlock(offset int64, data []byte) Block {
	return Block{Extent: Extent{Offset: offset, Length: int64(len(data))}, Data: data, CRC: Sum(data)}
}

// ZeroBlock is a block of zeros; it has no data and may be of any length.
func ZeroBlock(offset, length int64) Block {
	return Block{Extent: Extent{Offset: offset, Length: length, Zero: true}}
}
