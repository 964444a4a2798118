package ssefanin

import (
	"slices"
	"time"
)

// window is one value of `coalesce` among a stream's clients of one view: for so
// long after an event for them was appended, its clients are not woken, and then
// get it with all that came meanwhile. It opens only when the writers have come to
// all of the clients that were woken before: when there is more to do than can be
// done, there is more to coalesce. Without `coalesce`, it is 0. The audience's mu
// protects it.
type window struct {
	length  time.Duration
	view    *view // nil: the clients get every event
	clients []*subscriber
	active  bool  // it stands in windows.active
	pending bool  // events were appended since it closed
	ends    int64 // monotonic ns; never: it is closed
}

// windows are those of one stream's clients. The audience owns them, and its mu
// protects them.
type windows struct {
	count  int
	all    []*window // those without a view; a view has its own
	active []*window // of all of them, those that are pending or open
}

// join adds a client to its window.
func (ws *windows) join(sub *subscriber) {
	list, length := ws.listOf(sub.client.view), sub.client.settings.coalesce
	i := slices.IndexFunc(*list, func(w *window) bool { return w.length == length })
	if i < 0 {
		i = len(*list)
		*list = append(*list, &window{length: length, view: sub.client.view, ends: never})
		ws.count++
	}
	w := (*list)[i]
	sub.window, sub.place = w, len(w.clients)
	w.clients = append(w.clients, sub)
}

// leave takes a client from its window.
func (ws *windows) leave(sub *subscriber) {
	w := sub.window
	end := len(w.clients) - 1
	w.clients[sub.place] = w.clients[end]
	w.clients[sub.place].place = sub.place
	w.clients[end] = nil
	if w.clients = w.clients[:end]; end > 0 {
		return
	}
	same := func(other *window) bool { return other == w }
	list := ws.listOf(w.view)
	*list = slices.DeleteFunc(*list, same)
	ws.active = slices.DeleteFunc(ws.active, same)
	ws.count--
}

// listOf returns the windows of a view's clients; nil is no view.
func (ws *windows) listOf(v *view) *[]*window {
	if v == nil {
		return &ws.all
	}
	return &v.windows
}

// setPending notes that there are new events for the clients of windows.
func (ws *windows) setPending(list []*window) {
	for _, w := range list {
		w.pending = true
		if !w.active {
			w.active = true
			ws.active = append(ws.active, w)
		}
	}
}

// lookAtWindowsLocked opens the windows that new events open, and collects the
// clients of those that have ended. It returns when the next one does.
func (a *audience) lookAtWindowsLocked(l *glance, woken *turns) (next int64) {
	ws := &a.windows
	if l.appended {
		ws.setPending(ws.all)
		var all bool
		if all, l.more = a.views.judge(); all {
			for _, v := range a.views.byKey {
				ws.setPending(v.windows)
			}
		}
		a.views.takeTouched(func(v *view) { ws.setPending(v.windows) })
	}
	next, timed := never, false
	open := ws.active[:0]
	for _, w := range ws.active {
		if w.ends == never && (w.length == 0 || !l.handing) {
			w.ends, w.pending = l.now+int64(w.length), false
		}
		if w.ends > l.now {
			next = min(next, w.ends)
			open = append(open, w)
			continue
		}
		for _, sub := range w.clients {
			if sub.want() {
				woken.add(sub)
			}
		}
		timed = timed || w.length > 0
		w.ends, w.pending, w.active = never, false, false
	}
	clear(ws.active[len(open):])
	ws.active = open
	if timed && woken.last != nil {
		woken.last.lastWoken, l.handing = true, true
	}
	l.waiting = len(open) == ws.count
	return next
}
