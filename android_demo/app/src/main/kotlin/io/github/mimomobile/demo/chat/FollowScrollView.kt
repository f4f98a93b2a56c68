package io.github.mimomobile.demo.chat

import android.content.Context
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

    override fun onScrollChanged(left: Int, top: Int, oldLeft: Int, oldTop: Int) {
        super.onScrollChanged(left, top, oldLeft, oldTop)
        if (top < oldTop && !atEnd()) set(false) else if (atEnd()) set(true)
    }

    override fun onLayout(changed: Boolean, left: Int, top: Int, right: Int, bottom: Int) {
        super.onLayout(changed, left, top, right, bottom)
        if (follows) scrollTo(0, end()) else if (atEnd()) set(true)
    }

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
