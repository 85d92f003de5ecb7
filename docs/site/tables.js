// A wide table scrolls in its frame; so that it does from the keyboard, too, the frame can have the focus.
document$.subscribe(() => {
  const frames = () => document.querySelectorAll(".md-typeset__scrollwrap").forEach(frame => { frame.tabIndex = 0 })
  new MutationObserver(frames).observe(document.querySelector("article"), { childList: true, subtree: true })
  frames()
})
