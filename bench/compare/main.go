// SPDX-License-Identifier: Apache-2.0

// Compare shows two runs of the bench beside each other, of two commits for one: each
// number of the second run, and how many times that of the first it is.
//
//	go run ./bench/compare BEFORE.json AFTER.json
package main

import (
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"

	"github.com/libwasmshim/libwasmshim/bench/result"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: compare BEFORE.json AFTER.json")
		os.Exit(2)
	}
	before, err := result.Read(os.Args[1])
	if err == nil {
		var after result.List
		if after, err = result.Read(os.Args[2]); err == nil {
			compare(before, after)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// compare prints what both have measured.
func compare(before, after result.List) {
	for _, a := range after {
		for _, b := range before {
			if a.Title == b.Title {
				show(b, a)
			}
		}
	}
}

func show(before, after result.Table) {
	fmt.Printf("\n%s\n", after.Title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, row := range after.Rows {
		for j, cell := range row {
			if i > 0 && i < len(before.Rows) && j < len(before.Rows[i]) {
				cell = times(before.Rows[i][j], cell)
			}
			fmt.Fprintf(w, "%s\t", cell)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

// times adds to a number what it is in relation to an older one.
func times(before, after string) string {
	x, err1 := strconv.ParseFloat(before, 64)
	y, err2 := strconv.ParseFloat(after, 64)
	if err1 != nil || err2 != nil || x == 0 {
		return after
	}
	return fmt.Sprintf("%s (×%.2f)", after, y/x)
}
