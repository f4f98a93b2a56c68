package io.github.mimomobile.demo.chat

import android.content.Context
import android.graphics.Rect
import android.util.AttributeSet
import android.widget.ScrollView

/** Stays at the end of a text that grows, until the reader scrolls up. */
class FollowScrollView(context: Context, attributes: AttributeSet?) : ScrollView(context, attributes) {
    /** Told whether the end is in view. */
    var onFollow: (Boolean) -> Unit = {}

    var follows = false
        private set

    fun follow() {
        set(true)
        scrollTo(0, end())
    }

    fun toTop() {
        set(false)
        scrollTo(0, 0)
    }

    /** Stays where it is. */
    fun release() = set(false)

    /** What is scrolled: it is told what part of it is visible. */
    var list: ExchangeList? = null

    override fun onScrollChanged(left: Int, top: Int, oldLeft: Int, oldTop: Int) {
        super.onScrollChanged(left, top, oldLeft, oldTop)
        look()
        if (top < oldTop && !atEnd()) set(false) else if (atEnd()) set(true)
    }

    override fun onLayout(changed: Boolean, left: Int, top: Int, right: Int, bottom: Int) {
        // What is above may get another height than it had: what is read stays where it is.
        val first = list?.firstBelow(scrollY - listTop())
        val before = first?.let { it.top + listTop() - scrollY }
        super.onLayout(changed, left, top, right, bottom)
        if (first != null && before != null && !follows) scrollTo(0, first.top + listTop() - before)
        if (follows) scrollTo(0, end()) else if (atEnd()) set(true)
        post(::look) // in the middle of a layout no view may come
    }

    /** A text higher than the screen that gets the focus, unfolded say, is read from where it is. */
    override fun computeScrollDeltaToGetChildRectOnScreen(rect: Rect): Int =
        if (rect.height() > height) 0 else super.computeScrollDeltaToGetChildRectOnScreen(rect)

    private fun look() {
        val top = scrollY - listTop()
        if (height > 0) list?.see(top, top + height)
    }

    private fun listTop(): Int = list?.top ?: 0

    private fun set(value: Boolean) {
        if (follows == value) return
        follows = value
        post { onFollow(follows) } // perhaps in the middle of a layout
    }

    /** The largest scroll position. */
    private fun end(): Int = maxOf(0, (getChildAt(0)?.height ?: 0) + paddingTop + paddingBottom - height)

    private fun atEnd(): Boolean = end() - scrollY <= SLACK_PX

    private companion object {
        const val SLACK_PX = 8
    }
}
