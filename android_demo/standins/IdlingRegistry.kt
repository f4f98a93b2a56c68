package androidx.test.espresso

import android.os.Looper

interface IdlingResource {
    fun getName(): String

    fun isIdleNow(): Boolean

    fun registerIdleTransitionCallback(callback: ResourceCallback?)

    fun interface ResourceCallback {
        fun onTransitionToIdle()
    }
}

class IdlingRegistry private constructor() {
    fun getResources(): Collection<IdlingResource> = emptyList()

    fun getLoopers(): Collection<Looper> = emptyList()

    companion object {
        private val only = IdlingRegistry()

        @JvmStatic
        fun getInstance(): IdlingRegistry = only
    }
}
